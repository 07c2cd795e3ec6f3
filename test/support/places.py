"""Where a test finds the checkout, its data and the helpers that programs it starts import."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEST = ROOT / "test"
SUPPORT = TEST / "support"
DATA = TEST / "data"
GOLDEN = DATA / "golden"
