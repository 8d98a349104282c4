"""The command line: tables, JSON, plots, and what it exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import __main__ as cli
from bench import plots, report, runner
from bench.case import Problem, Renderer, Size
from bench.conditions import conditions
from tests.bench.small_cases import CPU, SMALL_A, SMALL_B, broken, result, row, small_case, wrong

THREADS = ["--threads", str(torch.get_num_threads())]


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two small cases instead of the real ones."""
    found = {case.name: case for case in (small_case(0, SMALL_A), small_case(1, SMALL_B))}
    for case in found.values():
        monkeypatch.setattr(type(case), "size", lambda self, which, *rest: self.cpu[which])
    monkeypatch.setattr(cli, "CASES", found)
    return found


def run(*arguments: str) -> int:
    return cli.main(["--device", "cpu", "--quick", *THREADS, *arguments])


def test_a_run_prints_tables_and_writes_json(
    cases: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("--out", str(tmp_path), "--no-plot") == 0
    printed = capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    found = report.read_result(path)
    assert {"torch", "triton", "python", "commit", "threads", "load_before", "load_after"} <= set(
        found["conditions"]
    )
    assert found["conditions"]["tuning"] == "defaults"
    assert len(found["rows"]) == 2 * 2 * 5
    assert "render_rays A, forward: 1 x 6 rays, 768 samples" in printed
    assert "render_rays B, forward+backward: 1 x 6 rays, 384 samples" in printed
    assert f"written to {path}" in printed
    assert run("--out", str(tmp_path), "--no-plot", "--only", "render_rays B") == 0
    assert "render_rays A" not in capsys.readouterr().out


def test_kept_launch_choices_are_named() -> None:
    found = conditions(CPU)
    assert "launch choices" not in report.format_conditions(found)
    kept = report.format_conditions({**found, "tuning": "kept for 2 fields"})
    assert "fp32 inputs, launch choices kept for 2 fields, load" in kept
    del found["tuning"]  # as results were written before
    assert "launch choices" not in report.format_conditions(found)


def test_failed_rows_exit_with_1_and_are_listed(
    cases: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = small_case(0, SMALL_A, wrong=Renderer(wrong), broken=Renderer(broken))
    cases[bad.name] = bad
    assert run("--out", str(tmp_path), "--no-plot", "--save-baseline") == 1
    printed = capsys.readouterr().out
    assert "parity failed, not timed" in printed
    assert "FAILED render_rays A, forward, broken: RuntimeError: out of order" in printed
    assert "FAILED render_rays A, forward, wrong: differs" in printed
    assert "not made the baseline" in printed


def test_an_unknown_case_is_named(cases: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="no such case; there are render_rays A, render_rays B"):
        run("--only", "nothing")


def test_without_a_place_to_write_nothing_is_written_among_the_sources(
    cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(cli, "RESULTS", tmp_path / "results")
    slug = conditions(CPU)["slug"]
    assert run("--no-plot", "--only", "A") == 0
    assert not (tmp_path / "results").exists()
    assert list((tmp_path / "scratch" / slug).glob("*.json"))
    assert run("--no-plot", "--only", "A", "--save") == 0
    assert list((tmp_path / "results" / slug).glob("*.json"))


def test_guard_needs_a_baseline_then_compares(
    cases: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("bench.guard.RESULTS", tmp_path)
    monkeypatch.setattr(cli, "SCRATCH", tmp_path / "scratch")
    assert cli.main(["guard", "--device", "cpu", "--quick", *THREADS]) == 2
    assert "python -m bench --save-baseline" in capsys.readouterr().out
    good = tmp_path / "good.json"
    slow, base = tmp_path / "slow.json", tmp_path / "some-gpu" / "baseline.json"
    peer = row(renderer="published")
    report.write_result(good, result(row(), peer))
    report.write_result(slow, result(row(p20_ms=10.63, p50_ms=10.64, p80_ms=10.65), peer))
    assert cli.main(["guard", "--result", str(good)]) == 2
    assert "no baseline for this device (some-gpu)" in capsys.readouterr().out
    report.write_result(base, result(row(), peer))
    assert cli.main(["guard", "--result", str(good)]) == 0
    assert cli.main(["guard", "--result", str(slow)]) == 1
    assert "LOSS render_rays A, forward, ours: 0.94x" in capsys.readouterr().out
    report.write_result(base, result(row(), peer, quick=True))
    assert cli.main(["guard", "--result", str(good)]) == 2
    assert "--quick" in capsys.readouterr().out


def test_a_case_that_dies_or_hangs_keeps_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def die(command: list[str], **options: Any) -> None:
        path = Path(command[command.index("--json") + 1])
        report.write_result(path, result(row(case=command[command.index("--exactly") + 1])))
        if "render_rays B" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", die)
    found = result()
    cases = [small_case(0, SMALL_A), small_case(1, SMALL_B)]
    saved: list[int] = []
    runner.run_apart(cases, [], found, lambda: saved.append(len(found["rows"])), limit=3)
    rows = found["rows"]
    assert saved == [2, 4]
    assert [r["status"] for r in rows] == ["ok", "error"] * 2
    assert rows[1]["error"] == "its process ended early"
    assert rows[3]["error"] == "no end within 3 s"


def test_a_case_that_cannot_be_set_up_is_an_error_row() -> None:
    found = result()
    case = small_case(0, SMALL_A)

    def fail(size: Size, device: torch.device, requires_grad: bool) -> Problem:
        raise ZeroDivisionError("division by zero")

    case = replace(case, make=fail)
    runner.run_here([case], cli.Options(CPU), found, lambda: None)
    rows = found["rows"]
    assert [r["error"] for r in rows] == ["ZeroDivisionError: division by zero"] * 2
    assert "ZeroDivisionError" in report.format_group(rows[:1])


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="no benchmark result"):
        report.read_result(path)
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="of format 1"):
        report.read_result(path)


def test_conditions_fit_a_caption() -> None:
    text = report.format_conditions(conditions(CPU))
    assert torch.__version__ in text
    assert "commit" in text
    gpu = result()["conditions"]
    assert report.format_conditions(gpu).startswith("Some GPU, driver 1.2; torch 2.11")


def test_plots_are_drawn_or_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peer = row(renderer="published", peak_bytes=10**7)
    source = tmp_path / "x.json"
    report.write_result(source, result(row(x_published=1.0), peer, row(status="error", p=0)))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="python -m bench plot"):
        plots.plot_result(report.read_result(source), tmp_path / "x.png")
    monkeypatch.undo()
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    assert cli.main(["plot", str(source)]) == 0
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no timed rows"):
        plots.plot_result(result(), tmp_path / "y.png")
