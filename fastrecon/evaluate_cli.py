"""``fastrecon evaluate``: figures of a model on what it never saw.

The first word after it may name another kind of model: ``scenes`` (f_trigen on pictures with depth)
or ``generated`` (RGB-D diffusion and f_trigen). Without one it is about objects.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

PROG = "fastrecon evaluate"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fastrecon evaluate``; returns the exit code (0: done, 1: failed, 2: misused)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in ("scenes", "generated"):
        return _scenes(args[0], args[1:])
    from .data.meshes.render import RenderError
    from .evaluation.options import EvaluateOptions

    def run(options: EvaluateOptions, command: str) -> int:
        from .evaluation.run import evaluate

        try:
            return evaluate(options, command)
        except RenderError as error:
            return _complain(error, 1)

    return _run(EvaluateOptions, run, PROG, args)


def _scenes(kind: str, args: list[str]) -> int:
    """``fastrecon evaluate scenes``, or ``generated``."""
    from .evaluation.scenes.options import GeneratedOptions, SceneOptions

    def run(options: Any, command: str) -> int:
        from .evaluation.scenes.run import evaluate_generated, evaluate_scenes

        return (evaluate_scenes if kind == "scenes" else evaluate_generated)(options, command)

    return _run(SceneOptions if kind == "scenes" else GeneratedOptions, run, f"{PROG} {kind}", args)


def _run(kind: Any, run: Callable[[Any, str], int], prog: str, args: list[str]) -> int:
    """Parse, check, evaluate; whatever goes wrong ends in a sentence and an exit code."""
    import tyro

    options = tyro.cli(kind, args=args, prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    command = shlex.join([*prog.split(), *args])
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return run(options, command)
    except KeyboardInterrupt:
        return _complain("\nstopped; nothing was written", 130)
    except (ValueError, OSError, ImportError) as error:
        return _complain(error, 1)


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
