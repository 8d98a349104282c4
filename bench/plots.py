"""Bars of time and memory of a result, with its conditions beneath; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness import Row
from bench.report import format_conditions, group_title

COLOURS = {"published": "#8c8c8c", "reference": "#c2a26b", "ours": "#2b6cb0"}


def colour_of(renderer: str) -> str:
    """One colour per family of renderers."""
    return COLOURS.get(renderer.replace(",", " ").split()[0], "#444444")


def import_figure() -> Any:
    """matplotlib's ``Figure``.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to draw the JSON later.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plots need matplotlib (pip install matplotlib); draw the JSON later with "
            "`python -m bench plot RESULT.json`"
        ) from error
    return Figure


def plot_result(result: dict[str, Any], path: Path) -> Path:
    """Draw a result: a row of panels per case and pass, times and memory.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to draw the JSON later.
        ValueError: there is nothing to draw.
    """
    groups: dict[str, list[Row]] = {}
    for row in result["rows"]:
        if "p50_ms" in row:
            groups.setdefault(group_title(row), []).append(row)
    if not groups:
        raise ValueError("the result has no timed rows to draw")
    height = sum(0.32 * len(rows) + 0.9 for rows in groups.values()) + 0.8
    figure = import_figure()(figsize=(11, height), layout="constrained")
    panels = figure.subplots(
        len(groups),
        2,
        squeeze=False,
        height_ratios=[len(rows) + 1 for rows in groups.values()],
        width_ratios=[3, 2],
    )
    for (title, rows), (times, memory) in zip(groups.items(), panels, strict=True):
        names = [row["renderer"] for row in rows]
        colours = [colour_of(name) for name in names]
        middles = [row["p50_ms"] for row in rows]
        spread = [
            [max(row["p50_ms"] - row["p20_ms"], 0) for row in rows],
            [max(row["p80_ms"] - row["p50_ms"], 0) for row in rows],
        ]
        bars = times.barh(names, middles, xerr=spread, color=colours, ecolor="#222222")
        labels = [
            f" {row['p50_ms']:.3g} ms"
            + (f" ({row['x_published']:.2g}x)" if "x_published" in row else "")
            for row in rows
        ]
        times.bar_label(bars, labels, fontsize=8)
        times.set_title(title, fontsize=9, loc="left")
        times.margins(x=0.25)
        sizes = [row.get("peak_bytes", 0) / 1e6 for row in rows]
        bars = memory.barh(names, sizes, color=colours)
        shown = [
            f" {s:.3g}" if "peak_bytes" in r else " -" for s, r in zip(sizes, rows, strict=True)
        ]
        memory.bar_label(bars, shown, fontsize=8)
        memory.set_title("peak memory above the inputs, MB", fontsize=9, loc="left")
        memory.set_yticks([])
        memory.margins(x=0.25)
        memory.set_visible(any(sizes))
        for axis in (times, memory):
            axis.invert_yaxis()
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        f"Medians with p20 to p80; (x) against the published renderer in the same run. "
        f"{result['date']}\n{format_conditions(result['conditions'])}",
        fontsize=8,
    )
    figure.savefig(path, dpi=130)
    return path
