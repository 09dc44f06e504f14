"""The scripts beside the tests, and the fakes, can be imported."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "fakes")]
