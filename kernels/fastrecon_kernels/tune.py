"""Measure the launch choices of the renderer's kernels for a field, and keep the best.

    python -m fastrecon_kernels.tune --preset triposr
    python -m fastrecon_kernels.tune --channels 40 --reduction concat --hidden 9x64 \\
        --activation silu --levels 64 --precision bf16

Takes minutes, on the GPU that it is for, which should have nothing else to do. What was kept serves
every later process on that GPU, whatever its number of rays; see kernels/README.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .common.backend import interpreting, triton_installed
from .settings import REDUCTIONS
from .types import ACTIVATIONS

if TYPE_CHECKING:
    from .render.autotune import Attempt
    from .render.tuned import FieldKey

PRESETS: dict[str, dict[str, object]] = {
    "triposr": {"channels": 40, "reduction": "concat", "hidden": [64] * 9, "activation": "silu"},
    "g3dr": {
        "channels": 64,
        "reduction": "mean",
        "hidden": [64],
        "activation": "softplus",
        "levels": [128, 64, 32],
    },
}
"""Published fields; what is missing is the option's own default."""


def hidden_widths(text: str) -> list[int]:
    """ "9x64" or "64,64,32" as widths; "none" as no hidden layer."""
    if text == "none":
        return []
    repeated = re.fullmatch(r"(\d{1,3})x(\d{1,5})", text)
    parts = [repeated[2]] * int(repeated[1]) if repeated else text.split(",")
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(
            f"must look like 9x64 (nine layers of 64), 64,32 or none, got {text!r}"
        )
    return [int(part) for part in parts]


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {text!r}")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    lines = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m fastrecon_kernels.tune",
        description=lines[0],
        epilog=lines[-1],
    )
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), help="the field of a published model")
    add("--channels", type=positive, default=40, help="of a plane (default: %(default)s)")
    add("--reduction", choices=REDUCTIONS, default="concat", help="default: %(default)s")
    add(
        "--hidden",
        type=hidden_widths,
        default=[64] * 9,
        metavar="LAYERS",
        help="hidden layers of the decoder: 9x64, 64,32 or none (default: 9x64)",
    )
    add("--colours", type=positive, default=3, metavar="K", help="default: %(default)s")
    add("--activation", choices=ACTIVATIONS, default="silu", help="default: %(default)s")
    add(
        "--levels",
        type=positive,
        nargs="+",
        default=[64],
        metavar="SIDE",
        help="side of the planes at each level (default: one of 64)",
    )
    add("--precision", choices=("bf16", "tf32", "fp32"), default="bf16", help="default: bf16")
    add("--forward-only", action="store_true", help="leave the backward pass as it is")
    add("--device", default="cuda", help="default: the current GPU")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, with a preset's in the place of the usual ones."""
    parser = make_parser()
    given, _ = parser.parse_known_args(arguments)
    if given.preset:
        parser.set_defaults(**PRESETS[given.preset])
    return parser.parse_args(arguments)


def field_key(options: argparse.Namespace) -> FieldKey:
    """The field that the options describe.

    Raises:
        ValueError: the fused kernels do not serve it.
    """
    from .render.pack import DecoderShape
    from .render.tuned import FieldKey

    blocks = 3 if options.reduction == "concat" else 1
    shape = DecoderShape(options.channels, blocks, (*options.hidden, 1 + options.colours))
    if not shape.fits(options.precision):
        limit = 64 if options.precision == "fp32" else 128
        raise ValueError(
            f"layers or planes wider than {limit} go through PyTorch's own products; there is "
            "nothing to choose"
        )
    n_levels = len(options.levels)
    return FieldKey(shape, n_levels, options.reduction, options.activation, options.precision)


def missing_device(name: str) -> str:
    """Why there is nothing to measure on, or nothing."""
    if not triton_installed():
        return "needs the triton package; pip install triton"
    if interpreting():
        return "unset TRITON_INTERPRET: an interpreter's times say nothing about a GPU"
    if not torch.cuda.is_available():
        return "needs a GPU, and torch sees none; launch choices are measured where they are used"
    try:
        device = torch.device(name)
    except RuntimeError:
        return f"--device must look like cuda or cuda:0, got {name!r}"
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        return f"--device must be one of {torch.cuda.device_count()} GPUs from cuda:0, got {name!r}"
    return ""


def describe(attempt: Attempt) -> str:
    """What an attempt's stage chooses, in words."""
    stage, tuning = attempt.stage, attempt.tuning
    tiles = {"training": tuning.training or tuning.field, "layers": tuning.group}
    tiles |= {"taps": tuning.taps, "points": tuning.points, "fold": tuning.fold}
    tile = tiles.get(stage, tuning.field)
    words = f"{tile[0]} {'texels' if stage == 'fold' else 'samples'}, {tile[1]} warps"
    if stage == "forward":
        limit = f", {tuning.field_registers} registers" if tuning.field_registers else ""
        kept = "" if tuning.kept_bytes else ", weights loaded per tile"
        return f"{words}{limit}, {programs(tuning.field_programs)}{kept}"
    if stage == "layers":
        layers = "two layers" if tuning.pair_layers else "one layer"
        widen = ", widened by a product" if tuning.widen else ""
        return f"{words}, {programs(tuning.group_programs)}, {layers}{widen}"
    if stage in ("windows", "rows"):
        if not tuning.window_warps:
            return "tap by tap"
        sides = " x ".join(map(str, tuning.patch if stage == "windows" else tuning.line))
        return f"windows of {sides} samples, {tuning.window_warps} warps"
    return words


def programs(count: int) -> str:
    """Programs per processor."""
    return f"{count} program{'s' if count > 1 else ''}"


TITLES = {
    "forward": "forward",
    "training": "forward pass of the backward pass",
    "layers": "the same and back through the layers",
    "taps": "folded texels, tap by tap",
    "points": "positions",
    "fold": "planes and first layer from folded texels",
    "windows": "first layer and planes, rays of a picture",
    "rows": "first layer and planes, rays in a row",
}


def print_stage(attempts: Sequence[Attempt]) -> None:
    """A stage's table."""
    print(f"{TITLES[attempts[0].stage]:<58}{'ms':>9}")
    now = attempts[0].milliseconds
    for attempt in attempts:
        time = "-" if attempt.milliseconds is None else f"{attempt.milliseconds:.4f}"
        note = attempt.left_out
        if not note and attempt.spilled:
            note = f"spills {attempt.spilled} bytes per thread"
        if attempt.taken:
            gain = 0.0
            if now and attempt.milliseconds:
                gain = 1 - attempt.milliseconds / now
            note = f"taken, {gain:.1%} less" if attempt is not attempts[0] else "taken"
        print(f"  {describe(attempt):<56}{time:>9}  {note}".rstrip())
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 if nothing could be kept; bad options and no GPU exit with 2."""
    options = parse(arguments)
    why_not = missing_device(options.device)
    if why_not:
        print(f"fastrecon_kernels.tune: {why_not}", file=sys.stderr)
        return 2
    try:
        key = field_key(options)
    except ValueError as error:
        print(f"fastrecon_kernels.tune: {error}", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return measure(device, key, tuple(options.levels), forward_only=options.forward_only)


def measure(
    device: torch.device, key: FieldKey, sides: tuple[int, ...], *, forward_only: bool
) -> int:
    """Measure, print and keep; returns the exit code."""
    from .render import tuned
    from .render.autotune import measure_field

    print(f"{tuned.place_of(device)}\n{key}\n", flush=True)
    parts = ("forward",) if forward_only else ("forward", "backward")
    try:
        found = measure_field(device, key, sides, parts, report=print_stage)
        path: Path = tuned.keep(device, key, found.parts)
    except OSError as error:
        print(f"the choices cannot be kept: {error}; set FASTRECON_CACHE", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"the defaults themselves do not run here: {error}", file=sys.stderr)
        return 1
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
