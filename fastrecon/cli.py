"""The command line: ``fastrecon reconstruct``, ``generate``, ``train``, ``evaluate``, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

HELP = """usage: fastrecon COMMAND ...

  reconstruct IMAGE...   pictures to meshes, turntables, depth and normals
  generate               a class, a caption or a picture with depth to 3D scenes
  train RECIPE           train a model; the same line again continues an interrupted run
  evaluate               figures of a model: views, surfaces, photographs, scenes, with intervals
  data COMMAND           render meshes, pack pictures into shards, estimate depth
  curate IMAGES          whole, unoccluded objects out of photographs, as crops with alpha

fastrecon COMMAND --help tells more; fastrecon --version tells the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (0: done, 1: failed, 2: misused)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if args else 2
    command, rest = args[0], args[1:]
    if command == "--version":
        print(f"fastrecon {metadata.version('fastrecon')}")
        return 0
    if command == "train":
        from .training_cli import main as train

        return train(rest)
    if command == "evaluate":
        from .evaluate_cli import main as evaluate

        return evaluate(rest)
    if command == "data":
        from .data.cli import main as data

        return data(rest)
    if command == "curate":
        from .curate_cli import main as curate

        return curate(rest)
    if command == "generate":
        from .generate_cli import main as generate

        return generate(rest)
    if command == "reconstruct":
        return _reconstruct(rest)
    print(f"fastrecon has no command {command!r}\n\n{HELP}", file=sys.stderr)
    return 2


def _reconstruct(args: Sequence[str]) -> int:
    import tyro

    from .reconstruct import Options, reconstruct_all

    options = tyro.cli(Options, args=list(args), prog="fastrecon reconstruct")
    try:
        return reconstruct_all(options)
    except KeyboardInterrupt:
        print("\nstopped; files written so far are whole", file=sys.stderr)
        return 130
    except (ValueError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
