"""Tables as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from .published import GAINS, published

HEADS = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "perceptual": ("LPIPS (VGG-16)", 3),
    "clip": ("CLIP similarity", 3),
    "chamfer_scaled": ("Chamfer, longest side 2", 3),
}
"""Names of metrics and the digits that they are given with."""


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table, its first row the head, with aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def published_table(data_set: str, metrics: tuple[str, ...]) -> str:
    """Published figures of a data set, one row per method and source; "" without any."""
    found = published(data_set, metrics)
    if not found:
        return ""
    shown = [m for m in metrics if any(f.metric == m for f in found)]
    rows = [[f"published on {data_set}", *(HEADS[m][0] for m in shown), "source"]]
    for method, source in dict.fromkeys((f.method, f.source) for f in found):
        values = {f.metric: f.value for f in found if (f.method, f.source) == (method, source)}
        cells = [f"{values[m]:.{HEADS[m][1]}f}" if m in values else "-" for m in shown]
        rows.append([method, *cells, source])
    gains = [f"{HEADS[m][0].split(',')[0]} {GAINS[m]}" for m in shown if m in GAINS]
    words = "Measured by their authors on choices of objects and views of their own."
    if gains:
        words += f" Real3D over fine-tuned TripoSR, mean of its four sets: {', '.join(gains)}."
    return f"{table(rows)}\n\n{words}"
