"""``fastrecon train RECIPE [overrides]``, which is ``python train.py RECIPE [overrides]``.

Experiments, which are arms x seeds of a recipe, are started in the same manner.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from .checkpoint import CheckpointError
from .data.camera_files import CollectionError
from .data.rgbd import RGBDError
from .experiments import cli as experiments
from .perceptual import WeightsError
from .recipes import RECIPES
from .signals import Interrupted
from .tasks.configs import AnyConfig
from .trainer import Trainer, TrainingError

DESCRIPTION = f"""Train a model.

Pick a recipe and override any field: `tiny --optim.steps 500 --run.out runs/x --data.seed 3`;
`tiny --help` lists them. The same command again continues an interrupted run, exactly.

Ctrl-C and SIGTERM finish the step and write a checkpoint (exit code 130 or 143).

Experiments train several arms with several seeds and compare them, with the same overrides for
all: {", ".join(f"{name} ({words})" for name, words in experiments.summaries().items())}"""

SHORT = {"--device": "--run.device", "--out": "--run.out", "--steps": "--optim.steps"}
"""Names that everybody tries first."""


def parse(argv: Sequence[str], prog: str = "fastrecon train") -> AnyConfig:
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
    """Train, or run an experiment, from the command line; returns the exit code.

    0 is a finished run, 1 one that failed, 2 a configuration that makes no sense, 130 or 143 one
    that was interrupted by SIGINT or SIGTERM after writing its checkpoint.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in experiments.EXPERIMENTS:
        return experiments.main(args[0], [_long(arg) for arg in args[1:]], prog)
    cfg = parse(args, prog)
    try:
        trainer = Trainer(cfg)
    except (CheckpointError, WeightsError, ImportError) as error:
        return _complain(error, 1)
    except ValueError as error:
        return _complain(error, 2)
    try:
        trainer.run()
    except Interrupted as stopped:
        return _complain(stopped, stopped.exit_code)
    except (CheckpointError, CollectionError, RGBDError, TrainingError, OSError) as error:
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
