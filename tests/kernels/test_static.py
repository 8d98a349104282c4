"""Every kernel compiles for Hopper without a GPU, spills nothing and is no worse than it was."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="compiling kernels needs Triton")

from bench import static_baseline
from bench.conditions import ROOT, child_environment
from bench.static import Report, compile_case, gpu_target, list_tasks
from bench.static_cases import OPERATORS, StaticCase

GOOD = Report("render", "sm_90", 168, 0, 100_000, 9, 5, 20, 30, 0, 900, 200.0, 700.0, 1.0)


def run_static(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench.static` in a process of its own, in which kernels are not interpreted."""
    environment = {k: v for k, v in child_environment().items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "bench.static", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_every_kernel_compiles_without_spills_and_is_no_worse() -> None:
    result = run_static()
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line for line in result.stdout.splitlines() if " sm_90 " in line]
    assert len(rows) >= len(list_tasks(OPERATORS, ["sm_90"])), result.stdout


def test_instructions_per_sample_are_counted(tmp_path: Path) -> None:
    baseline = tmp_path / "static.json"
    arguments = ["--operators", "triplane_sample", "--jobs", "1", "--baseline", str(baseline)]
    assert run_static(*arguments, "--save-baseline").returncode == 0
    rows = {row["case"]: row for row in json.loads(baseline.read_text())["rows"]}
    forward = rows["triplane_sample A bf16 forward"]
    # At least the 12 taps of 40 channels, multiplied and added, for each of 32 threads.
    assert forward["issued_per_sample"] > 12 * 40 / 32
    assert forward["special_per_sample"] == 0
    assert rows["triplane_sample A bf16 backward, planes"]["reductions"] > 0
    forward["issued_per_sample"] *= 0.9
    baseline.write_text(json.dumps({"rows": list(rows.values())}))
    result = run_static(*arguments)
    assert result.returncode == 1
    assert "triplane_sample A bf16 forward sm_90:" in result.stdout


def test_the_lookup_compiles_for_amd() -> None:
    result = run_static("--targets", "gfx942", "--operators", "triplane_sample", "--jobs", "1")
    assert result.returncode == 0, result.stdout + result.stderr


def test_reports_name_what_must_not_ship() -> None:
    assert GOOD.problem == ""
    assert replace(GOOD, spill_bytes=8).problem == "spills 8 bytes per thread"
    assert (
        "needs 240000 bytes of shared memory, the chip has 232448"
        in replace(GOOD, shared_bytes=240_000).problem
    )
    assert "the chip has 65536" in replace(GOOD, target="gfx942").problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"issued_per_sample": 209.0}, ""),
        ({"registers": 255, "shared_bytes": 200_000}, ""),
        ({"issued_per_sample": 211.0}, "211.0 issued instructions per sample, were 200.0"),
        ({"issued_per_sample": None, "note": "lost"}, "lost, were 200.0 per sample"),
        ({"matrix": 8}, "8 matrix instructions, were 9"),
        ({"spill_bytes": 4}, "spills 4 bytes"),
    ],
)
def test_losses(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "static.json"
    static_baseline.save(path, [GOOD])
    losses, remarks = static_baseline.compare(path, [replace(GOOD, **change)])
    assert not remarks
    assert len(losses) == bool(words)
    assert all(words in line for line in losses)


def test_another_triton_only_remarks_on_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "static.json"
    static_baseline.save(path, [GOOD])
    version = static_baseline.triton_version()
    monkeypatch.setattr(static_baseline, "triton_version", lambda: "99")
    worse = replace(GOOD, matrix=1, spill_bytes=4)
    losses, remarks = static_baseline.compare(path, [worse])
    assert losses == ["render sm_90: spills 4 bytes"]
    assert [line.split(":")[0] for line in remarks] == [
        f"baseline of triton {version}, this is 99",
        "render sm_90",
    ]
    assert remarks[1].endswith(f"were 9 under triton {version}")


def test_saving_replaces_the_targets_that_were_compiled(tmp_path: Path) -> None:
    path = tmp_path / "static.json"
    static_baseline.save(path, [GOOD, replace(GOOD, target="gfx942")])
    static_baseline.save(path, [replace(GOOD, case="other")])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["case"], row["target"]) for row in rows] == [
        ("render", "gfx942"),
        ("other", "sm_90"),
    ]
    assert static_baseline.compare(path, [GOOD])[1] == [
        "render sm_90: not in the baseline (--save-baseline)"
    ]


def test_goals_are_sums_over_kernels() -> None:
    parts = [replace(GOOD, case="render A forward"), replace(GOOD, case="composite A forward")]
    (line,) = static_baseline.goals(parts)
    assert "400 issued warp instructions (limit 190, missed)" in line
    assert "100000 shared bytes (limit 115712)" in line
    assert static_baseline.goals(parts[:1]) == []


def test_the_committed_baseline_has_every_kernel() -> None:
    rows = json.loads(static_baseline.PATH.read_text())["rows"]
    known = {(row["case"], row["target"]) for row in rows}
    assert {
        (OPERATORS[operator]()[index].name, target)
        for operator, index, target in list_tasks(OPERATORS, ["sm_90"])
    } <= known
    assert not any(row["spill_bytes"] for row in rows)


def test_interpreted_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        compile_case(StaticCase("any", None, {}), "sm_90")


def test_targets_are_checked() -> None:
    assert gpu_target("sm_90").arch == 90
    assert gpu_target("gfx942").warp_size == 64
    with pytest.raises(ValueError, match="must look like sm_90 or gfx942, got 'h100'"):
        gpu_target("h100")
