"""What is proven. Folders are named like those of the code."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests/support"
