"""The launch choices that are measured against the defaults: few, for each must be compiled.

A stage changes some fields of `Tuning` and times the kernels that these concern, with all other
fields as the stages before left them. What the compiler says of these tiles is in bench/NOTES.md;
time decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .pack import DecoderShape
from .tuning import Tuning, field_options, groups, keeps_weights

Change = dict[str, Any]
"""Fields of `Tuning` and their new values."""


class Stage(NamedTuple):
    """Alternatives, of which one is taken."""

    name: str
    part: str  # "forward" | "backward"
    changes: tuple[Change, ...]


PROCESSOR_BYTES = 200 << 10
"""Shared memory of a processor that kept weights may fill, all programs together."""


def _forward(*tiles: tuple[int, int, int, int], **more: Any) -> tuple[Change, ...]:
    """Samples, warps, most registers (0: any number) and programs per processor."""
    names = ("field_registers", "field_programs")
    return tuple(
        {"field": tile[:2], **dict(zip(names, tile[2:], strict=True)), **more} for tile in tiles
    )


def _layers(*tiles: tuple[int, int, int, bool, bool]) -> tuple[Change, ...]:
    """Samples, warps, programs per processor, whether layers go in pairs, and `Tuning.widen`."""
    names = ("group_programs", "pair_layers", "widen")
    return tuple({"group": tile[:2], **dict(zip(names, tile[2:], strict=True))} for tile in tiles)


def _each(name: str, *values: Any) -> tuple[Change, ...]:
    return tuple({name: value} for value in values)


def _windows(*shapes: tuple[tuple[int, int, int], int]) -> tuple[Change, ...]:
    """Rays across and down a picture and samples on each, and warps; tap by tap at last."""
    windows = tuple({"patch": patch, "window_warps": warps} for patch, warps in shapes)
    return (*windows, {"window_warps": 0})


ALTERNATIVES: dict[str, dict[str, tuple[Change, ...]]] = {
    # A product takes 64 samples and 4 warps; programs share a processor's shared memory, in which
    # kept weights lie, and its 64 k registers.
    "hopper": {
        "forward": (
            *_forward((128, 8, 128, 2), (128, 8, 0, 1), (128, 8, 0, 2), (128, 4, 0, 2)),
            *_forward((64, 4, 0, 2), (64, 4, 168, 3), (64, 4, 128, 4)),
            *_forward((64, 4, 128, 4), (128, 8, 128, 2), kept_bytes=0),
        ),
        "training": _each("training", None, (128, 8), (64, 4), (128, 4)),
        "layers": _layers(
            (128, 8, 1, True, True), (64, 4, 1, True, True), (64, 4, 2, True, True),
            (64, 8, 1, True, False), (128, 8, 1, False, True), (64, 4, 2, False, True),
        ),
        "taps": _each("taps", (64, 8), (32, 8), (64, 4), (32, 4)),
        "points": _each("points", (64, 8), (64, 4), (32, 4)),
        "fold": _each("fold", (64, 4), (128, 8), (32, 4)),
        "windows": _windows(
            ((4, 4, 8), 4), ((8, 4, 4), 4), ((4, 2, 16), 4), ((4, 4, 4), 4)
        ),
        "rows": _each("line", (8, 1, 16), (4, 1, 32), (16, 1, 8), (4, 1, 16)),
    },
    "nvidia": {
        "forward": (
            *_forward((64, 8, 0, 2), (64, 8, 0, 1), (64, 8, 0, 3), (64, 4, 0, 2), (64, 4, 0, 3)),
            *_forward((128, 8, 0, 2), (32, 4, 0, 4)),
            *_forward((64, 8, 0, 2), (64, 4, 0, 3), kept_bytes=0),
        ),
        "training": _each("training", None, (64, 8), (64, 4), (128, 8), (32, 4)),
        "layers": _layers(
            (32, 8, 1, True, False), (32, 4, 1, True, False), (16, 4, 2, True, False),
            (32, 8, 1, True, True), (32, 4, 2, False, False), (64, 8, 1, False, False),
        ),
        "taps": _each("taps", (32, 4), (32, 8), (64, 8), (16, 4)),
        "points": _each("points", (16, 8), (32, 8), (32, 4), (16, 4)),
        "fold": _each("fold", (32, 8), (32, 4), (16, 4)),
        "windows": _windows(((4, 4, 8), 4), ((4, 4, 4), 4), ((4, 4, 8), 8)),
        "rows": _each("line", (8, 1, 16), (4, 1, 16), (8, 1, 8), (2, 1, 32)),
    },
    "amd": {
        "forward": _forward(
            (64, 8, 0, 2), (64, 8, 0, 1), (64, 4, 0, 2), (64, 4, 0, 4), (128, 8, 0, 1),
            (32, 4, 0, 4),
        ),
        "training": _each("training", None, (64, 8), (64, 4), (128, 8), (32, 4)),
        "layers": _layers(
            (32, 4, 1, True, False), (32, 8, 1, True, False), (64, 4, 1, True, False),
            (32, 4, 1, True, True), (32, 4, 1, False, False), (32, 4, 2, False, False),
        ),
        "taps": _each("taps", (32, 4), (32, 8), (64, 4), (16, 4)),
        "points": _each("points", (32, 4), (32, 8), (64, 4), (16, 4)),
        "fold": _each("fold", (64, 4), (32, 4), (64, 8)),
        "windows": _windows(((4, 4, 8), 4), ((4, 4, 4), 4), ((4, 4, 8), 8)),
        "rows": _each("line", (8, 1, 16), (4, 1, 16), (8, 1, 8), (2, 1, 32)),
    },
    # Of the products in fp32, which leave more of the work to plain registers.
    "fp32": {
        "forward": _forward(
            (32, 8, 0, 2), (32, 8, 0, 1), (32, 4, 0, 2), (32, 4, 0, 3), (64, 8, 0, 2), (16, 4, 0, 3)
        ),
        "training": _each("training", None, (32, 8), (32, 4), (64, 8), (16, 4)),
        "layers": _layers(
            (32, 8, 1, False, False), (32, 4, 1, False, False), (64, 8, 1, False, False),
            (16, 4, 2, False, False), (32, 8, 1, True, False), (16, 4, 1, True, False),
        ),
        "taps": _each("taps", (32, 4), (32, 8), (64, 4), (16, 4)),
        "points": _each("points", (32, 8), (32, 4), (16, 8), (16, 4)),
        "fold": _each("fold", (32, 8), (32, 4), (16, 4)),
        "windows": _windows(((4, 4, 4), 4), ((4, 4, 4), 8), ((4, 4, 2), 4)),
        "rows": _each("line", (4, 1, 16), (8, 1, 8), (2, 1, 32)),
    },
    "interpreter": {
        "forward": _forward((32, 1, 0, 2), (64, 1, 0, 2)),
        "training": _each("training", None, (16, 1)),
        "layers": _layers((32, 1, 1, True, True), (32, 1, 1, False, False)),
        "taps": _each("taps", (64, 1), (32, 1)),
        "points": _each("points", (64, 1), (32, 1)),
        "fold": _each("fold", (64, 1), (32, 1)),
        "windows": _windows(((4, 4, 8), 4), ((4, 4, 4), 1)),
        "rows": _each("line", (8, 1, 16), (4, 1, 16)),
    },
}  # fmt: skip
"""Rows are `TUNING`'s; "blackwell" has Hopper's."""
ALTERNATIVES["blackwell"] = ALTERNATIVES["hopper"]

BACKWARD = ("training", "layers", "taps", "windows", "rows", "points", "fold")


def stages(row: str, shape: DecoderShape, parts: tuple[str, ...]) -> list[Stage]:
    """What is measured for a field, one after the other."""
    names = ["forward"] if "forward" in parts else []
    names += BACKWARD if "backward" in parts else ()
    if shape.n_layers == 1:  # nothing between cuts
        names = [name for name in names if name not in ("training", "layers")]
    return [
        Stage(name, "backward" if name in BACKWARD else "forward", ALTERNATIVES[row][name])
        for name in names
    ]


def tunings(stage: Stage, shape: DecoderShape, precision: str, current: Tuning) -> Iterator[Tuning]:
    """The alternatives that make sense for a field, each once, the current one first."""
    seen = {current}
    yield current
    for change in stage.changes:
        tuning = current._replace(**change)
        if tuning not in seen and sensible(stage, shape, precision, tuning, current):
            seen.add(tuning)
            yield tuning


def sensible(
    stage: Stage, shape: DecoderShape, precision: str, tuning: Tuning, current: Tuning
) -> bool:
    """Whether an alternative is another one at all for this field, and may run."""
    keeps = keeps_weights(shape, precision, tuning)
    if stage.name == "forward":
        if tuning.field_registers and "maxnreg" not in field_options(shape, tuning, cuts=False):
            return False
        if tuning.kept_bytes != current.kept_bytes:  # says nothing where none would be kept
            return keeps != keeps_weights(shape, precision, current)
        weight_bytes = shape.n_weights * (2 if precision == "bf16" else 4)
        return not keeps or tuning.field_programs * weight_bytes <= PROCESSOR_BYTES
    if stage.name == "training":
        return (tuning.training or tuning.field) != (current.training or current.field)
    if stage.name == "layers" and tuning.pair_layers != current.pair_layers:
        return groups(shape, tuning) != groups(shape, current)
    if stage.name == "rows":
        return tuning.window_warps > 0 and whole_tiles(tuning)
    return stage.name not in ("taps", "windows") or whole_tiles(tuning)


def whole_tiles(tuning: Tuning) -> bool:
    """Whether what windows leave can go tap by tap in whole tiles."""
    sizes = [a * b * c for a, b, c in (tuning.patch, tuning.line)]
    return not tuning.window_warps or not any(size % tuning.taps[0] for size in sizes)
