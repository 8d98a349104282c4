"""Rendering against the two limits of a device: its matrix products and its memory.

Work is counted from the workload, not measured: 2 operations per multiply-add of the decoder and
of every tap, three times that with the backward pass, which computes nothing twice in this count
(a renderer that recomputes gets no credit for it). Two readings of the bytes, both least ones:

- compulsory: planes, rays and pictures once, and their gradients;
- gathered: every tap that a sample reads, and adds to in the backward pass, as if nothing were kept
  in a cache. The renderer lies between the two.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from bench.case import Pass
from bench.harness import Row
from bench.plots import colour_of, import_figure
from bench.report import format_conditions
from bench.workloads import WORKLOADS, Workload

OUTPUTS = 4
"""Density and three colours."""
RAY_BYTES, PIXEL_BYTES = 24, 20
MARKERS = {"forward": "o", "forward+backward": "s"}


class Work(NamedTuple):
    """Operations and bytes of a call."""

    flops: float
    compulsory: float
    gathered: float


def work_of(workload: Workload, which: Pass, views: int, rays: int, item: int) -> Work:
    """What a call of ``views`` x ``rays`` must do; ``item`` is the bytes of a texel's channel."""
    settings, channels = workload.settings, workload.channels
    taps = 3 * 4 * workload.n_levels
    reads = channels * (3 if settings.reduction == "concat" else 1)
    widths = [reads, *workload.hidden, OUTPUTS]
    macs = sum(a * b for a, b in itertools.pairwise(widths)) + taps * channels
    samples = views * rays * (settings.n_samples + settings.n_importance)
    texels = sum((workload.plane_side >> level) ** 2 for level in range(workload.n_levels))
    planes = views * 3 * texels * channels
    gathered = float(samples * taps * channels * item)
    compulsory = float(planes * item + views * rays * (RAY_BYTES + PIXEL_BYTES))
    if which == "forward":
        return Work(2.0 * macs * samples, compulsory, gathered)
    # Gradients are fp32: those of the planes written, those of the pictures read.
    return Work(
        6.0 * macs * samples,
        2 * compulsory + 4.0 * planes + views * rays * PIXEL_BYTES,
        2 * gathered + 4.0 * samples * taps * channels,
    )


def timed_workloads(result: dict[str, Any]) -> list[tuple[Row, Work]]:
    """Timed rows of a whole workload, with their work."""
    found = []
    for row in result["rows"]:
        operator, _, name = row["case"].partition(" ")
        if operator == "render_rays" and name in WORKLOADS and "p50_ms" in row:
            item = 2 if "bf16" in row["renderer"] else 4
            work = work_of(WORKLOADS[name], row["pass"], row["views"], row["rays"], item)
            found.append((row, work))
    return found


def plot_roofline(result: dict[str, Any], path: Path) -> Path:
    """Draw every timed rendering twice, by both readings of its bytes, under the measured limits.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to draw the JSON later.
        ValueError: no rendering was timed, or the result has no limits.
    """
    rows, peaks = timed_workloads(result), result.get("peaks")
    if not rows or not peaks:
        raise ValueError("a roofline needs timed rows of render_rays and the device's peaks")
    figure = import_figure()(figsize=(10, 6), layout="constrained")
    panel = figure.subplots()
    intensities = [w.flops / b for _, w in rows for b in (w.compulsory, w.gathered)]
    low, high = min(1.0, *intensities) / 2, max(intensities) * 2
    products = {name: rate for name, rate in peaks.items() if name != "memory"}
    for name, rate in products.items():
        ridge = rate / peaks["memory"]
        panel.plot([low, ridge, high], [low * peaks["memory"], rate, rate], color="#222222", lw=1)
        panel.annotate(f"{name} {rate / 1e12:.3g} TFLOP/s", (high, rate), fontsize=7, ha="right")
    panel.annotate(f"memory {peaks['memory'] / 1e9:.3g} GB/s", (low, low * peaks["memory"]))
    for row, work in rows:
        rate = work.flops / row["p50_ms"] * 1e3
        style = {"color": colour_of(row["renderer"]), "marker": MARKERS[row["pass"]]}
        ends = [work.flops / work.gathered, work.flops / work.compulsory]
        panel.plot(ends, [rate, rate], lw=0.5, **style, markersize=5)
        label = f"{row['case'][-1]} {row['pass']}, {row['renderer']}"
        panel.annotate(label, (ends[0], rate), fontsize=6, va="bottom")
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="operations per byte: left every tap from memory, right everything once",
        ylabel="operations per second, counted from the workload",
    )
    panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"{result['date']}\n{format_conditions(result['conditions'])}", fontsize=8)
    figure.savefig(path, dpi=130)
    return path
