"""What a run sees and decides, for a browser and for Prometheus."""
