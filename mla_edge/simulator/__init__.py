"""The simulator: digits on moving cards, spoken too, with known truth; needs numpy only."""
