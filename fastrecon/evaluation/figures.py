"""Pictures of a report: sheets of typical, best and worst objects, and gain against angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..export.pictures import Picture, to_picture
from .estimates import Estimate, estimate
from .protocol import Method, Outcome, SetResult
from .validation import SAME_VIEW_DEG

CELL, GAP, CAPTION = 96, 4, 15
PER_GROUP = 2
"""Objects shown as typical, best and worst each."""
MOST_VIEWS = 8
ROWS = ("truth", "model", "extrusion")
BIN_DEG = 30
PLOT = (640, 360)
MARGINS = (64, 30, 18, 46)
"""Left, top, right, bottom of the plot's axes, pixels."""
COLOURS = ((31, 100, 180), (215, 110, 20), (60, 140, 60), (150, 60, 150))
GREY, LIGHT = (90, 90, 90), (225, 225, 225)
OVERSIZE = 2
"""Plots are drawn this much larger and reduced: Pillow's lines are not anti-aliased."""


def ranked(result: SetResult) -> list[int]:
    """Objects from the worst to the best gain over the mean image."""
    gains = result.values("psnr", "model") - result.values("psnr", "mean image")
    return gains.mean(1).argsort(stable=True).tolist()


def groups(result: SetResult, count: int = PER_GROUP) -> dict[str, list[int]]:
    """Which objects are shown as "typical", "best" and "worst"; small sets have fewer of them."""
    order = ranked(result)
    count = min(count, max(1, len(order) // 3))
    middle = len(order) // 2 - count // 2
    typical = order[middle : middle + count]
    rest = [i for i in order if i not in typical]
    worst = rest[: min(count, len(rest) // 2)]
    best = [i for i in rest[::-1] if i not in worst][:count]
    return {"typical": typical, "best": best, "worst": worst}


def sheet(result: SetResult) -> Picture:
    """The input, and below each other truth, model and extrusion in views of growing angle."""
    shown = [(kind, i) for kind, chosen in groups(result).items() for i in chosen]
    n_views = min(MOST_VIEWS, result.angles.shape[1])
    label = 62
    width = GAP + CELL + GAP + label + n_views * (CELL + GAP)
    height = CAPTION + len(ROWS) * (CELL + GAP) + 3 * GAP
    canvas = Image.new("RGB", (width, len(shown) * height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (kind, i) in enumerate(shown):
        outcome, top = result.outcomes[i], k * height + GAP
        draw.text((GAP, top), _title(kind, outcome), fill="black")
        top += CAPTION
        canvas.paste(_cell(to_picture(outcome.image.movedim(0, -1))), (GAP, top))
        order = outcome.angles.argsort(stable=True)[:n_views].tolist()
        for row, method in enumerate(ROWS):
            y = top + row * (CELL + GAP)
            draw.text((2 * GAP + CELL, y + CELL // 2 - 6), method, fill="black")
            for column, view in enumerate(order):
                x = 2 * GAP + CELL + label + column * (CELL + GAP)
                picture = outcome.pictures[method][view].movedim(0, -1).numpy()
                canvas.paste(_cell(picture), (x, y))
                if not row:
                    draw.text((x + 2, y + 1), f"{outcome.angles[view]:.0f}", fill=GREY)
    return np.asarray(canvas)


def _title(kind: str, outcome: Outcome) -> str:
    means = {method: float(values.mean()) for method, values in outcome.psnr.items()}
    return (
        f"{kind}: {outcome.name}   PSNR {means['model']:.1f} dB "
        f"(mean image {means['mean image']:.1f}, extrusion {means['extrusion']:.1f}); "
        "numbers in the pictures: degrees from the input view"
    )


def _cell(picture: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Curve:
    """Gain per bin of angles."""

    name: str
    bins: list[tuple[float, Estimate]]  # middle of the bin, degrees


def curve(result: SetResult, over: Method) -> Curve:
    """The model's gain in PSNR over a baseline, by angle from the input view."""
    gains = result.values("psnr", "model") - result.values("psnr", over)
    bins = []
    for low in range(0, 180, BIN_DEG):
        chosen = _between(result.angles, low, low + BIN_DEG)
        found = estimate(gains, chosen)
        if found is not None:
            bins.append((low + BIN_DEG / 2, found))
    return Curve(f"{result.title.lower()}, over the {over}", bins)


def _between(angles: Tensor, low: float, high: float) -> Tensor:
    last = high >= 180
    within = (angles >= low) & ((angles < high) | torch.tensor(last))
    return within & (angles >= SAME_VIEW_DEG)


def plot(curves: Sequence[Curve]) -> Picture:
    """Gain in PSNR against the angle from the input view, with 95% intervals."""
    left, top, right, bottom = (OVERSIZE * m for m in MARGINS)
    width, height = (OVERSIZE * s for s in PLOT)
    legend = OVERSIZE * 18 * len(curves)
    canvas = Image.new("RGB", (width, height + legend), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(OVERSIZE * 12)
    ends = [0.0] + [x for c in curves for _, e in c.bins for x in (e.low, e.high)]
    step = max(1, round((max(ends) - min(ends)) / 6))
    low, high = step * np.floor(min(ends) / step), step * np.ceil((max(ends) + 1e-9) / step)

    def place(angle: float, gain: float) -> tuple[float, float]:
        share = (gain - low) / (high - low)
        return left + (width - left - right) * angle / 180, height - bottom - share * (
            height - top - bottom
        )

    for gain in np.arange(low, high + step / 2, step):
        (x, y), end = place(0, gain), place(180, gain)
        draw.line([(x, y), end], fill=GREY if gain == 0 else LIGHT, width=OVERSIZE)
        draw.text((x - 6 * OVERSIZE, y), f"{gain:+.0f}" if gain else "0", "black", font, "rm")
    for angle in range(0, 181, BIN_DEG):
        x, y = place(angle, low)
        draw.line([(x, y), (x, y + 4 * OVERSIZE)], fill=GREY, width=OVERSIZE)
        draw.text((x, y + 6 * OVERSIZE), str(angle), "black", font, "mt")
    draw.text((left, top / 2), "gain in PSNR, dB (95% intervals)", "black", font, "lm")
    middle = (left + (width - left - right) / 2, height - bottom + 24 * OVERSIZE)
    draw.text(middle, "degrees between the view and the input view", "black", font, "mt")
    for k, c in enumerate(curves):
        colour, shift = COLOURS[k % len(COLOURS)], 1.5 * (k - (len(curves) - 1) / 2)
        places = [place(angle + shift, e.mean) for angle, e in c.bins]
        draw.line(places, fill=colour, width=2 * OVERSIZE)
        for (angle, e), (x, y) in zip(c.bins, places, strict=True):
            r = 3 * OVERSIZE
            bar = [place(angle + shift, e.low), place(angle + shift, e.high)]
            draw.line(bar, fill=colour, width=OVERSIZE)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        y = height + OVERSIZE * 18 * k + 4 * OVERSIZE
        draw.line([(left, y), (left + 20 * OVERSIZE, y)], fill=colour, width=2 * OVERSIZE)
        draw.text((left + 28 * OVERSIZE, y), c.name, "black", font, "lm")
    size = (width // OVERSIZE, (height + legend) // OVERSIZE)
    return np.asarray(canvas.resize(size, Image.Resampling.LANCZOS))
