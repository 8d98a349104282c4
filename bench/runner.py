"""Run cases in turn, each in a process of its own where one may take the device down."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.case import Case
from bench.conditions import ROOT, child_environment, load_average
from bench.harness import Options, Row, measure_pass
from bench.report import format_group, read_result

CASE_LIMIT = 420
"""Seconds that a case in its own process may take, its kernels' compilation included."""


def error_row(case: Case, which: str, message: str) -> Row:
    """A row for a case that could not even be set up."""
    return {
        "case": case.name,
        "pass": which,
        "renderer": "all",
        "status": "error",
        "error": message,
        "views": 0,
        "rays": 0,
        "samples": 0,
    }


def run_here(
    cases: Sequence[Case], options: Options, result: dict[str, Any], save: Callable[[], None]
) -> None:
    """Measure cases in this process; ``save`` is called after every pass."""
    for case in cases:
        for which in case.passes:
            try:
                rows = measure_pass(case, which, options)
            except Exception as error:
                rows = [error_row(case, which, f"{type(error).__name__}: {error}")]
            result["rows"] += rows
            result["conditions"]["load_after"] = load_average()
            save()
            print(format_group(rows), flush=True)


def run_apart(
    cases: Sequence[Case],
    arguments: Sequence[str],
    result: dict[str, Any],
    save: Callable[[], None],
    limit: float = CASE_LIMIT,
) -> None:
    """Measure each case in a process of its own.

    A kernel that reads out of bounds takes its process's CUDA context with it, and one that never
    ends its process: what the others measured, and this one's passes before, are kept.
    """
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.json"
            command = [sys.executable, "-m", "bench", *arguments]
            command += ["--exactly", case.name, "--json", str(path), "--together"]
            message = ""
            try:
                subprocess.run(command, cwd=ROOT, env=child_environment(), timeout=limit)
            except subprocess.TimeoutExpired:
                message = f"no end within {limit:.0f} s"
            rows = read_result(path)["rows"] if path.exists() else []
        done = {row["pass"] for row in rows}
        for which in case.passes:
            if which not in done:
                rows.append(error_row(case, which, message or "its process ended early"))
                print(format_group(rows[-1:]), flush=True)
        result["rows"] += rows
        result["conditions"]["load_after"] = load_average()
        save()
