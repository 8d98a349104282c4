"""A result as a table, and as JSON that is written again after every case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.baselines.lightplane import NAME, absence
from bench.conditions import ROOT
from bench.harness import Row

RESULTS = ROOT / "bench" / "results"
FORMAT = 1
"""Of the JSON; a reader refuses others."""
LIGHTPLANE_CASES = ("render_rays L", "programs L")

HEADER = (
    f"  {'renderer':<33} {'p20 ms':>9} {'p50 ms':>9} {'p80 ms':>9} {'calls':>5} {'x eager':>8} "
    f"{'x publ.':>8} {'peak MB':>9} {'rms err':>8} {'grad err':>8}"
)


def new_result(conditions: dict[str, Any], quick: bool) -> dict[str, Any]:
    """A result without rows."""
    return {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "conditions": conditions,
        "rows": [],
    }


def result_name(result: dict[str, Any]) -> str:
    """File name by date and commit."""
    date = result["date"][:19].replace(":", "").replace("-", "")
    return f"{date}-{result['conditions']['commit'].replace('+', '-changed')}.json"


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        ValueError: if it is none, or of another format.
    """
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no benchmark result: {error}") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ValueError(f"{path} is no benchmark result of format {FORMAT}")
    return result


def count(n: int) -> str:
    """1234567 -> 1.23 M."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def group_title(row: Row) -> str:
    """What a group of rows has in common."""
    size = f"{row['views']} x {row['rays']} rays, {count(row['samples'])} samples"
    return f"{row['case']}, {row['pass']}: {size}"


def format_row(row: Row) -> str:
    """One line of the table."""

    def show(key: str, width: int, form: str, scale: float = 1.0) -> str:
        value = row.get(key)
        return f"{'-':>{width}}" if value is None else f"{value * scale:>{width}{form}}"

    name = f"  {row['renderer']:<33} "
    errors = f"{show('rms_error', 8, '.1e')} {show('gradient_error', 8, '.1e')}"
    if row["status"] == "error":
        return name + row["error"]
    if row["status"] == "parity":
        verdict = f"parity failed, not timed; largest error {row['max_error']:.1e}"
        return f"{name}{verdict:>71} {errors}"
    times = " ".join(show(f"p{q}_ms", 9, ".3f") for q in (20, 50, 80))
    ratios = f"{show('x_eager', 8, '.2f')} {show('x_published', 8, '.2f')}"
    memory = show("peak_bytes", 9, ".1f", 1e-6)
    return f"{name}{times} {show('calls', 5, '.0f')} {ratios} {memory} {errors}"


def format_group(rows: Iterable[Row]) -> str:
    """The table of one case and pass."""
    rows = list(rows)
    lines = [group_title(rows[0]), HEADER, *map(format_row, rows), *format_lightplane(rows), ""]
    return "\n".join(lines)


def against_lightplane(rows: Iterable[Row]) -> dict[str, float]:
    """Our renderers' speed as a multiple of Lightplane's, the fastest of its rows."""
    medians = {row["renderer"]: row["p50_ms"] for row in rows if "p50_ms" in row}
    theirs = [median for name, median in medians.items() if name.startswith(NAME)]
    ours = {name: median for name, median in medians.items() if name.startswith("ours")}
    return {name: min(theirs) / median for name, median in ours.items() if theirs}


def format_lightplane(rows: list[Row]) -> list[str]:
    """A line for the cases that Lightplane can express: the ratios, or why there are none."""
    if rows[0]["case"] not in LIGHTPLANE_CASES:
        return []
    if not any(row["renderer"].startswith(NAME) for row in rows):
        return [f"  {NAME:<33} {absence() or 'not measured: its kernels need CUDA'}"]
    ratios = [f"{name} {ratio:.2f}x" for name, ratio in against_lightplane(rows).items()]
    return [f"  against {NAME}: {', '.join(ratios) or 'not timed'}"]


def format_conditions(found: dict[str, Any]) -> str:
    """Conditions in a line or two, for the table's head and for captions."""
    device = found.get("gpu") or f"{found['cpu']}, {found['threads']} threads"
    driver = f", driver {found['driver']}" if found.get("driver") else ""
    load = f", load {found['load_before']}" if found.get("load_before") is not None else ""
    kept = found.get("tuning", "defaults")
    choices = "" if kept == "defaults" else f", launch choices {kept}"
    load += f" to {found['load_after']}" if found.get("load_after") is not None else ""
    return (
        f"{device}{driver}; torch {found['torch']}, triton {found['triton']}, Python "
        f"{found['python']}, commit {found['commit']}, fp32 inputs{choices}{load}"
    )


def failed(rows: Iterable[Row]) -> list[str]:
    """What is wrong with rows that are not "ok", in words."""
    return [
        f"{row['case']}, {row['pass']}, {row['renderer']}: "
        + (row["error"] if row["status"] == "error" else "differs from the published renderer")
        for row in rows
        if row["status"] != "ok"
    ]
