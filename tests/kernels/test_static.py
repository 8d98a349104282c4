"""Every kernel compiles for a Hopper GPU without one, spills nothing and fits its shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="compiling kernels needs Triton")

from bench.static import Report, compile_case, gpu_target
from bench.static_cases import OPERATORS, StaticCase

ROOT = Path(__file__).parents[2]


def run_static(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench.static` in a process of its own, in which kernels are not interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-m", "bench.static", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_every_kernel_compiles_without_spills() -> None:
    result = run_static("--targets", "sm_90")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = result.stdout.splitlines()[1:]
    assert len(rows) >= len(OPERATORS)
    assert all(" sm_90 " in row for row in rows), result.stdout


def test_the_lookup_compiles_for_amd() -> None:
    result = run_static("--targets", "gfx942", "--operators", "triplane_sample")
    assert result.returncode == 0, result.stdout + result.stderr


def test_reports_name_what_must_not_ship() -> None:
    good = Report("render", "sm_90", 168, 0, 100_000, 9, 0, 1.0)
    assert good.problem == ""
    assert replace(good, spill_bytes=8).problem == "spills 8 bytes per thread"
    assert (
        "needs 240000 bytes of shared memory, the chip has 232448"
        in replace(good, shared_bytes=240_000).problem
    )
    assert "the chip has 65536" in replace(good, target="gfx942").problem


def test_interpreted_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        compile_case(StaticCase("any", None, {}), "sm_90")


def test_targets_are_checked() -> None:
    assert gpu_target("sm_90").arch == 90
    assert gpu_target("gfx942").warp_size == 64
    with pytest.raises(ValueError, match="must look like sm_90 or gfx942, got 'h100'"):
        gpu_target("h100")
