"""The fuzzer is a script of the benchmarks, with sibling imports."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
