"""Time and memory against what a sweep varied; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness import Row
from bench.plots import colour_of, import_figure
from bench.report import format_conditions

STYLES = {"forward": "--", "forward+backward": "-"}
FIGURES = (("p50_ms", "time, ms", 1.0), ("peak_bytes", "peak memory above the inputs, MB", 1e-6))


def plot_sweep(result: dict[str, Any], path: Path) -> Path:
    """Draw the rows that belong to a sweep: a row of panels per axis, times and memory.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to draw the JSON later.
        ValueError: the result has no timed row of a sweep.
    """
    axes: dict[str, list[Row]] = {}
    for row in result["rows"]:
        if "axis" in row and "p50_ms" in row:
            axes.setdefault(row["axis"], []).append(row)
    if not axes:
        raise ValueError(
            "the result has no timed rows of a sweep; see python -m bench --only sweep"
        )
    figure = import_figure()(figsize=(10, 2.6 * len(axes) + 0.8), layout="constrained")
    panels = figure.subplots(len(axes), len(FIGURES), squeeze=False)
    for (axis, rows), line in zip(axes.items(), panels, strict=True):
        for (key, title, scale), panel in zip(FIGURES, line, strict=True):
            draw_lines(panel, rows, key, scale)
            panel.set(xlabel=axis, ylabel=title, xscale="log", yscale="log")
            values = sorted({row["value"] for row in rows})
            panel.set_xticks(values, [f"{value:g}" for value in values])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_visible(bool(panel.lines))
    panels[0][0].legend(fontsize=7, handlelength=4)
    figure.supxlabel(
        f"Workload A, {rows_of(result)}; medians. {result['date']}\n"
        f"{format_conditions(result['conditions'])}",
        fontsize=8,
    )
    figure.savefig(path, dpi=130)
    return path


def draw_lines(panel: Any, rows: list[Row], key: str, scale: float) -> None:
    """A line for each renderer and pass."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get(key, 0) > 0:  # a process that did not grow has no place on a logarithmic axis
            groups.setdefault((row["renderer"], row["pass"]), []).append(row)
    for (renderer, which), points in groups.items():
        points.sort(key=lambda row: row["value"])
        panel.plot(
            [row["value"] for row in points],
            [row[key] * scale for row in points],
            STYLES[which],
            color=colour_of(renderer),
            marker="o",
            markersize=3,
            label=f"{renderer}, {which}",
        )


def rows_of(result: dict[str, Any]) -> str:
    """How many rays the base has."""
    base = next(row for row in result["rows"] if "axis" in row)
    return f"{base['views']} x {base['rays']} rays where not varied"
