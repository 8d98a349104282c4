"""What the kernels' static figures were, and what counts as a loss against them.

A loss is a spill, less matrix instructions, or more than 5% more issued instructions per sample.
More registers or more shared memory within the chip's limit are no loss. Counts depend on the
compiler: under another Triton than the baseline's a loss of counts is only a remark, and a first
line says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.conditions import ROOT

if TYPE_CHECKING:
    from bench.static import Report

PATH = ROOT / "bench" / "results" / "static.json"
TOLERANCE = 0.05


class Goal(NamedTuple):
    """Limits on the sum of some kernels on sm_90; None: no limit."""

    name: str
    cases: tuple[str, ...]
    issued: float | None
    special: float | None = None
    shared: int | None = None


GOALS = (
    Goal("A forward", ("render A forward", "composite A forward"), 190, 700, 113 << 10),
    Goal("B forward", ("render B forward", "composite B forward"), 200),
)
"""Per sample; two programs of A share a processor's memory."""


def goals(reports: Sequence[Report]) -> list[str]:
    """How far the forward passes are from their limits, one line each."""
    lines = []
    found = {report.case: report for report in reports if report.target == "sm_90"}
    for goal in GOALS:
        if not all(case in found for case in goal.cases):
            continue
        parts = [found[case] for case in goal.cases]
        figures = [
            ("issued warp instructions", sum(p.issued_per_sample or 0 for p in parts), goal.issued),
            ("special operations", sum(p.special_per_sample or 0 for p in parts), goal.special),
            ("shared bytes", max(p.shared_bytes for p in parts), goal.shared),
        ]
        text = ", ".join(
            f"{value:.0f} {what} (limit {limit:.0f}{'' if value <= limit else ', missed'})"
            for what, value, limit in figures
            if limit is not None
        )
        lines.append(f"{goal.name}, per sample: {text}")
    return lines


def triton_version() -> str:
    import triton

    return triton.__version__


def save(path: Path, reports: Sequence[Report]) -> None:
    """Replace the rows of the reports' targets; those of other targets stay."""
    targets = {report.target for report in reports}
    kept = [row for row in _load(path)["rows"] if row["target"] not in targets]
    new = [{k: v for k, v in asdict(r).items() if k not in ("seconds", "note")} for r in reports]
    rows = sorted(
        kept + [{**row, "triton": triton_version()} for row in new],
        key=lambda row: (row["target"], row["case"]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def compare(path: Path, reports: Sequence[Report]) -> tuple[list[str], list[str]]:
    """Losses against the baseline, and remarks that fail nothing."""
    rows = {(row["case"], row["target"]): row for row in _load(path)["rows"]}
    if not rows:
        return [], [f"no baseline at {path}; make one with --save-baseline"]
    losses, remarks = [], []
    others = {row["triton"] for row in rows.values()} - {triton_version()}
    if others:
        remarks.append(
            f"baseline of triton {', '.join(sorted(others))}, this is {triton_version()}: spills, "
            "shared memory and what does not compile fail; counts are only compared"
        )
    for report in reports:
        old = rows.get((report.case, report.target))
        if old is None:
            remarks.append(f"{report.case} {report.target}: not in the baseline (--save-baseline)")
            continue
        if report.spill_bytes > old["spill_bytes"]:
            losses.append(f"{report.case} {report.target}: spills {report.spill_bytes} bytes")
        counts = _count_losses(old, report)
        if old["triton"] == triton_version():
            losses += counts
        else:
            remarks += [f"{line} under triton {old['triton']}" for line in counts]
    return losses, remarks


def _count_losses(old: dict[str, Any], report: Report) -> list[str]:
    name = f"{report.case} {report.target}"
    losses = []
    if report.matrix < old["matrix"]:
        losses.append(f"{name}: {report.matrix} matrix instructions, were {old['matrix']}")
    before, now = old["issued_per_sample"], report.issued_per_sample
    if before is not None and now is None:
        losses.append(f"{name}: {report.note or 'issues not counted'}, were {before} per sample")
    elif before is not None and now is not None and now > before * (1 + TOLERANCE):
        losses.append(f"{name}: {now} issued instructions per sample, were {before}")
    return losses


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {"rows": []}
