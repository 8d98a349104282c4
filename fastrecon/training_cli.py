"""``fastrecon train RECIPE [overrides]``, which is ``python train.py RECIPE [overrides]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from .checkpoint import CheckpointError
from .config import Config
from .recipes import RECIPES
from .signals import Interrupted
from .trainer import Trainer, TrainingError

DESCRIPTION = """Train a reconstruction model on procedural objects.

Pick a recipe and override any field: `tiny --optim.steps 500 --run.out runs/x --data.seed 3`;
`tiny --help` lists them. The same command again continues an interrupted run, exactly.

Ctrl-C and SIGTERM finish the step and write a checkpoint (exit code 130 or 143)."""

SHORT = {"--device": "--run.device", "--out": "--run.out"}
"""Names that everybody tries first."""


def parse(argv: Sequence[str], prog: str = "fastrecon train") -> Config:
    """The recipe named first in ``argv`` with the overrides that follow.

    Exits with a message that lists the recipes, or the nearest fields, on a typo.
    """
    recipes = {
        name: (_first_line(recipe.__doc__ or name), recipe()) for name, recipe in RECIPES.items()
    }
    return tyro.extras.overridable_config_cli(
        recipes, args=[_long(arg) for arg in argv], prog=prog, description=DESCRIPTION
    )


def main(argv: Sequence[str] | None = None, prog: str = "fastrecon train") -> int:
    """Train from the command line; returns the exit code.

    0 is a finished run, 1 one that failed, 2 a configuration that makes no sense, 130 or 143 one
    that was interrupted by SIGINT or SIGTERM after writing its checkpoint.
    """
    cfg = parse(sys.argv[1:] if argv is None else argv, prog)
    try:
        trainer = Trainer(cfg)
    except CheckpointError as error:
        return _complain(error, 1)
    except ValueError as error:
        return _complain(error, 2)
    try:
        trainer.run()
    except Interrupted as stopped:
        return _complain(stopped, stopped.exit_code)
    except (CheckpointError, TrainingError) as error:
        return _complain(error, 1)
    return 0


def _long(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return SHORT.get(name, name) + equals + value


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _complain(error: Exception, code: int) -> int:
    print(error, file=sys.stderr)
    return code
