"""The picture of an experiment: what every arm changed, with its interval."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..evaluation.figures import COLOURS, GREY, LIGHT, OVERSIZE
from ..export.pictures import Picture
from .experiment import Experiment, Metric
from .table import Difference, Table

LINE, HEAD, FOOT, GAP = 22, 40, 24, 14
"""Heights of a bar's line, of what is above and below a panel, and between panels, pixels."""
LABELS, WIDTH, RIGHT = 220, 460, 24
"""Width of the arms' names, of a panel, and of the margin on the right."""
SHADES = {"better": COLOURS[0], "worse": COLOURS[1], "inconclusive": (170, 170, 170)}
TICKS = 5


def bars(table: Table, experiment: Experiment) -> Picture:
    """Differences to the first reference, a panel per metric; grey is inconclusive."""
    reference = experiment.references[0]
    panels = []
    for metric in experiment.metrics:
        rows = [row for row in table.rows if row.metric == metric.name and row.arm != reference]
        found = [(experiment.arms[row.arm].title, row.over.get(reference)) for row in rows]
        panels.append((metric, [(title, d) for title, d in found if d is not None]))
    heights = [HEAD + LINE * len(lines) + FOOT + GAP for _, lines in panels]
    size = (LABELS + WIDTH + RIGHT, max(1, sum(heights)))
    canvas = Image.new("RGB", (size[0] * OVERSIZE, size[1] * OVERSIZE), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for (metric, lines), height in zip(panels, heights, strict=True):
        _panel(draw, top * OVERSIZE, metric, lines, experiment.arms[reference].title)
        top += height
    return np.asarray(canvas.resize(size, Image.Resampling.LANCZOS))


def _panel(
    draw: ImageDraw.ImageDraw,
    top: int,
    metric: Metric,
    lines: list[tuple[str, Difference]],
    reference: str,
) -> None:
    font = ImageFont.load_default(OVERSIZE * 12)
    ends = [0.0, *(x for _, d in lines for x in (d.estimate.low, d.estimate.high))]
    step = nice_step(max(ends) - min(ends))
    low, high = step * math.floor(min(ends) / step), step * math.ceil(max(ends) / step)
    high = high if high > low else low + step
    left, width = OVERSIZE * LABELS, OVERSIZE * WIDTH
    begin, end = top + OVERSIZE * HEAD, top + OVERSIZE * (HEAD + LINE * len(lines))

    def across(value: float) -> float:
        return left + width * (value - low) / (high - low)

    better = "higher" if metric.higher_is_better else "lower"
    title = f"{metric.title}: difference to {reference} ({better} is better)"
    draw.text((OVERSIZE * 8, top + OVERSIZE * 18), title, "black", font, "lm")
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    for k in range(round((high - low) / step) + 1):
        value = low + k * step
        x, zero = across(value), abs(value) < step / 2
        draw.line([(x, begin), (x, end)], fill=GREY if zero else LIGHT, width=OVERSIZE)
        text = "0" if zero else f"{value:+.{digits}f}"
        draw.text((x, end + OVERSIZE * 5), text, "black", font, "mt")
    for k, (name, difference) in enumerate(lines):
        y = begin + OVERSIZE * (LINE * k + LINE // 2)
        found, r = difference.estimate, OVERSIZE * 6
        x = sorted((across(0.0), across(found.mean)))
        draw.rectangle((x[0], y - r, x[1], y + r), fill=SHADES[difference.verdict])
        interval = [(across(found.low), y), (across(found.high), y)]
        draw.line(interval, fill="black", width=OVERSIZE)
        for place, _ in interval:
            draw.line([(place, y - r // 2), (place, y + r // 2)], fill="black", width=OVERSIZE)
        draw.text((left - OVERSIZE * 8, y), name, "black", font, "rm")


def nice_step(extent: float) -> float:
    """1, 2 or 5 times a power of ten, so that about ``TICKS`` of them span the extent."""
    rough = max(extent, 1e-6) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
