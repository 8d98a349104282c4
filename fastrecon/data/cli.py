"""``fastrecon data``: the command lines around ``render_set``, ``pack``, ``depth_command`` and
``object_sheet``."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = """usage: fastrecon data COMMAND ...

  render MESHES... -o OUT   meshes to pictures with alpha, depth, normals and cameras
  pack SRC -o OUT           posed or single pictures, or ones with depth, to shards for training
  depth FOLDER              estimates depth for pictures in class folders, for training from RGB-D
  objects -o SHEET.png      a contact sheet of the procedural objects that models learn from

fastrecon data COMMAND --help tells more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fastrecon data``; returns the exit code (see ``render_set``; 2: misused)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if args else 2
    if args[0] == "render":
        return _render(args[1:])
    if args[0] == "pack":
        return _pack(args[1:])
    if args[0] == "depth":
        return _depth(args[1:])
    if args[0] == "objects":
        return _objects(args[1:])
    print(f"fastrecon data has no command {args[0]!r}\n\n{HELP}", file=sys.stderr)
    return 2


def _objects(args: Sequence[str]) -> int:
    import tyro

    from ..checkpoint import CheckpointError
    from .object_sheet import SheetOptions, write_sheet

    options = tyro.cli(SheetOptions, args=list(args), prog="fastrecon data objects")
    try:
        options.check()
        write_sheet(options)
    except ValueError as error:
        return _complain(error, 2)
    except (OSError, CheckpointError) as error:
        return _complain(f"cannot write {options.out} ({error}); check the folder", 1)
    print(f"wrote {options.out}")
    return 0


def _render(args: Sequence[str]) -> int:
    import tyro

    from ..checkpoint import CheckpointError
    from .meshes.render import RenderError
    from .render_options import RenderOptions
    from .render_set import RenderSetError, render_set

    options = tyro.cli(RenderOptions, args=list(args), prog="fastrecon data render")
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return render_set(options)
    except KeyboardInterrupt:
        return _complain("\nstopped; finished objects are whole", 130)
    except OSError as error:
        return _complain(_write_failure(options.out, error, "objects"), 1)
    except (RenderSetError, RenderError, CheckpointError) as error:
        return _complain(error, 1)


def _pack(args: Sequence[str]) -> int:
    import tyro

    from .pack import PackOptions, pack

    options = tyro.cli(PackOptions, args=list(args), prog="fastrecon data pack")
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return pack(options)
    except KeyboardInterrupt:
        return _complain("\nstopped; finished shards are whole", 130)
    except OSError as error:
        return _complain(_write_failure(options.out, error, "shards"), 1)
    except ValueError as error:
        return _complain(error, 1)


def _depth(args: Sequence[str]) -> int:
    import tyro

    from ..checkpoint import CheckpointError
    from .depth_command import DepthOptions, make_depth

    options = tyro.cli(DepthOptions, args=list(args), prog="fastrecon data depth")
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return make_depth(options)
    except KeyboardInterrupt:
        return _complain("\nstopped; finished depth is whole", 130)
    except OSError as error:
        return _complain(_write_failure(options.folder, error, "depth"), 1)
    except (CheckpointError, ImportError, ValueError) as error:
        return _complain(error, 1)


def _write_failure(out: Path, error: OSError, what: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no room in {out} ({error}); free some space and run the same command again: finished "
            f"{what} are whole and stay"
        )
    return f"cannot write to {out} ({error}); check the folder"


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
