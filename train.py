"""Pick a recipe, apply overrides, train: ``python train.py tiny --optim.steps 500``."""

import sys
from pathlib import Path

# so that a clone trains without being installed
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "kernels")]

from fastrecon.training_cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(prog="train.py"))
