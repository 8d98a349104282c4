"""The experiments by name: ``fastrecon train NAME`` runs arms x seeds where a recipe is one run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from ..checkpoint import CheckpointError
from .experiment import ExperimentOptions
from .g3dr import G3DRMini
from .real3d import Real3DMini

EXPERIMENTS: dict[str, type[ExperimentOptions]] = {"real3d_mini": Real3DMini, "g3dr_mini": G3DRMini}


def summaries() -> dict[str, str]:
    """What each is, in a line."""
    return {
        name: (options.__doc__ or name).strip().splitlines()[0]
        for name, options in EXPERIMENTS.items()
    }


def main(name: str, argv: Sequence[str], prog: str = "fastrecon train") -> int:
    """Run an experiment from the command line; returns the exit code.

    0: everything is there, 1: some run failed, 2: misused, 130 or 143: stopped by a signal; the
    same command continues.
    """
    # Meshes, figures and tables are not needed to train a recipe, nor for its help.
    from ..data.meshes.render import RenderError
    from ..data.render_set import RenderSetError
    from . import runner

    options = tyro.cli(EXPERIMENTS[name], args=list(argv), prog=f"{prog} {name}")
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return runner.run_experiment(options.experiment(), options)
    except KeyboardInterrupt:
        return _complain("\nstopped; the same command continues", 130)
    except (CheckpointError, RenderSetError, RenderError, ValueError, OSError) as error:
        return _complain(error, 1)


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
