"""Fail if `render_rays` or an operator has become slower than the committed baseline of its device.

    python -m bench guard [--result FILE] [--baseline FILE] [options of python -m bench]

What is compared is a renderer's speed relative to the published renderer *of the same run*, timed
in turns: a busy machine or a lower clock slows both.

Noise model. A median of n calls with p20 and p80 has the relative standard error

    s = max(1.5 h / sqrt(n), floor)         h = (p80 - p20) / (2 p50)

(for normal noise h is 0.84 deviations and a median's standard error 1.25 deviations / sqrt(n)). The
floor is what repeated runs differ by though each is steady: clocks, memory layout, what shares the
processor; it is higher for fewer than three calls, whose spread says nothing. The
loss 1 - ratio_now / ratio_then depends on four medians, whose errors add as squares:

    noise = 2 sqrt(s_ours_now^2 + s_published_now^2 + s_ours_then^2 + s_published_then^2)

A row fails if its loss is above 5% + noise. Peak memory fails above 5% + 16 MB on top of the
baseline's. A row of the baseline that is now missing, fails parity or has an error, fails too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.case import PEER
from bench.harness import Row
from bench.report import RESULTS

TOLERANCE = 0.05
FLOOR = {"cuda": 0.002, "cpu": 0.01}
FEW_CALLS_FLOOR = 0.05
MEMORY_SLACK = 16 << 20
GUARDED = "ours"

Key = tuple[str, str, str]


def baseline_path(slug: str) -> Path:
    """Where the baseline of a device is committed."""
    return RESULTS / slug / "baseline.json"


def comparable(result: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Why the two cannot be compared, or nothing."""
    for what in ("device", "slug"):
        now, then = result["conditions"][what], baseline["conditions"][what]
        if now != then:
            return f"the baseline's {what} is {then}, this run's is {now}"
    if result["quick"] != baseline["quick"]:
        return "one of the two was made with --quick"
    return ""


def rows_by_key(result: dict[str, Any]) -> dict[Key, Row]:
    """Rows by case, pass and renderer."""
    return {(row["case"], row["pass"], row["renderer"]): row for row in result["rows"]}


def standard_error(row: Row, floor: float) -> float:
    """Relative standard error of a row's median."""
    half = (row["p80_ms"] - row["p20_ms"]) / (2 * row["p50_ms"])
    few = FEW_CALLS_FLOOR if row["calls"] < 3 else 0.0
    return max(1.5 * half / math.sqrt(row["calls"]), floor, few)


def find_losses(
    result: dict[str, Any], baseline: dict[str, Any], cases: set[str] | None = None
) -> list[str]:
    """What has become worse, in words; ``cases`` limits which ones must be there."""
    now, then = rows_by_key(result), rows_by_key(baseline)
    floor = FLOOR[result["conditions"]["device"]]
    losses = []
    for row in result["rows"]:
        if row["status"] != "ok":
            why = row["error"] if row["status"] == "error" else "fails parity"
            losses.append(f"{row['case']}, {row['pass']}, {row['renderer']}: {why}")
    for key, old in then.items():
        case, which, renderer = key
        if not renderer.startswith(GUARDED) or (cases is not None and case not in cases):
            continue
        name = ", ".join(key)
        new = now.get(key)
        if new is None:
            losses.append(f"{name}: missing")
            continue
        if new["status"] != "ok" or old["status"] != "ok":
            continue
        peer = (case, which, PEER)
        losses += compare_time(name, new, old, now.get(peer), then.get(peer), floor)
        losses += compare_memory(name, new, old)
    return losses


def compare_time(
    name: str, new: Row, old: Row, new_peer: Row | None, old_peer: Row | None, floor: float
) -> list[str]:
    """The loss of one row, if it is one."""
    rows = [new, old, new_peer, old_peer]
    timed = [row for row in rows if row is not None and "p50_ms" in row]
    if len(timed) < len(rows):
        return [f"{name}: no time of it or of the published renderer to compare"]
    if (new["samples"], new["rays"]) != (old["samples"], old["rays"]):
        return [f"{name}: measured at another size than the baseline"]
    ratio_now, ratio_then = (
        peer["p50_ms"] / row["p50_ms"] for row, peer in (timed[::2], timed[1::2])
    )
    loss = 1 - ratio_now / ratio_then
    noise = 2 * math.sqrt(sum(standard_error(row, floor) ** 2 for row in timed))
    if loss <= TOLERANCE + noise:
        return []
    return [
        f"{name}: {ratio_now:.2f}x the published renderer, was {ratio_then:.2f}x: "
        f"{loss:.1%} slower (allowed {TOLERANCE:.0%} + {noise:.1%} noise)"
    ]


def compare_memory(name: str, new: Row, old: Row) -> list[str]:
    """The growth of one row's peak memory, if it is too large."""
    if "peak_bytes" not in old or "peak_bytes" not in new:
        return []
    allowed = old["peak_bytes"] * (1 + TOLERANCE) + MEMORY_SLACK
    if new["peak_bytes"] <= allowed:
        return []
    return [f"{name}: {new['peak_bytes'] / 1e6:.0f} MB, was {old['peak_bytes'] / 1e6:.0f} MB"]
