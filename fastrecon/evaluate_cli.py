"""``fastrecon evaluate``: figures of a model on objects that it never saw."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

PROG = "fastrecon evaluate"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fastrecon evaluate``; returns the exit code (0: done, 1: failed, 2: misused)."""
    import tyro

    from .evaluation.options import EvaluateOptions

    args = list(sys.argv[1:] if argv is None else argv)
    options = tyro.cli(EvaluateOptions, args=args, prog=PROG, config=(tyro.conf.OmitArgPrefixes,))
    command = shlex.join([*PROG.split(), *args])
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    from .data.meshes.render import RenderError
    from .data.render_set import RenderSetError
    from .evaluation.run import evaluate

    try:
        return evaluate(options, command)
    except KeyboardInterrupt:
        return _complain("\nstopped; nothing was written", 130)
    except (RenderSetError, RenderError, ValueError, OSError, ImportError) as error:
        return _complain(error, 1)


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
