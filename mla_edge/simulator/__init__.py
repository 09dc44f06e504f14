"""The simulator: digits drawn on moving cards and spoken, with known truth; needs numpy only."""
