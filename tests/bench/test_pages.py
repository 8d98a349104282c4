"""What a result becomes: a table in a page, a roofline, curves of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import __main__ as cli
from bench import page, peaks, plot_sweep, report, roofline, static_baseline
from bench.harness import Options, measure_pass
from bench.operators import CASES, sweep
from bench.workloads import A, B
from tests.bench.small_cases import CPU, result, row

PLACE = "# Title\n<!-- bench cuda: begin -->\nold\n<!-- bench cuda: end -->\nrest\n"


def test_a_table_is_put_between_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "x.json", tmp_path / "README.md"
    rows = [
        row(renderer="published", peak_bytes=12_000_000),
        row(renderer="ours bf16", p50_ms=2.0, p20_ms=1.9, p80_ms=2.25, x_published=5.0),
        row(renderer="ours tf32", status="error", error="OutOfMemoryError: none left"),
        row(renderer="ours", **{"pass": "forward+backward"}, status="parity"),
        row(case="composite B", renderer="ours"),
    ]
    report.write_result(source, result(*rows))
    target.write_text(PLACE)
    assert cli.main(["page", str(source), str(target)]) == 0
    written = target.read_text()
    assert written.startswith("# Title\n<!-- bench cuda: begin -->\n| case |")
    assert written.endswith("<!-- bench cuda: end -->\nrest\n")
    assert "old" not in written
    lines = written.splitlines()
    assert "| render_rays A, forward, 1.28 k samples | published | 10 | 9.99 to 10.01 |" in lines[4]
    assert lines[4].endswith("| 12 |")
    assert lines[5] == "|  | **ours bf16** | 2 | 1.9 to 2.25 |  | 5.00 |  |"
    assert "OutOfMemoryError: none left" in lines[6]
    assert "forward+backward" in lines[7]
    assert "not timed" in lines[7]
    assert "Some GPU" in written
    assert "composite" not in written
    target.write_text("no place")
    assert cli.main(["page", str(source), str(target)]) == 2
    assert "<!-- bench cuda: end -->" in capsys.readouterr().out
    assert target.read_text() == "no place"
    assert cli.main(["page", str(tmp_path / "none.json"), str(target)]) == 2
    assert "none.json" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no rows of query_points"):
        page.page_table(result(*rows), "query_points")


def test_work_is_that_of_the_design() -> None:
    samples = 8 * 128 * 128 * 128
    work = roofline.work_of(A, "forward", 8, 128 * 128, 2)
    # 120 -> 9 x 64 -> 4 is 40.7 thousand multiply-adds a sample
    assert work.flops / 2 / samples == pytest.approx(40_704 + 12 * 40)
    assert work.gathered == samples * 12 * 40 * 2
    assert work.compulsory == 8 * 3 * 64 * 64 * 40 * 2 + 8 * 128 * 128 * 44
    both = roofline.work_of(A, "forward+backward", 8, 128 * 128, 2)
    assert both.flops == 3 * work.flops
    assert both.compulsory > 2 * work.compulsory
    b = roofline.work_of(B, "forward", 8, 128 * 128, 2)
    assert b.gathered == 8 * 128 * 128 * 64 * 36 * 64 * 2
    assert b.compulsory > 8 * 3 * 64 * 2 * (128**2 + 64**2 + 32**2)


def test_peaks_are_positive_and_rooflines_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(peaks.SIDES, "cpu", 64)
    monkeypatch.setitem(peaks.COPIED, "cpu", 1 << 16)
    found = peaks.measure_peaks(CPU)
    assert set(found) == {"fp32", "bf16", "memory"}
    assert min(found.values()) > 0
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    measured = {**result(row(renderer="ours bf16"), row(renderer="published")), "peaks": found}
    path = roofline.plot_roofline(measured, tmp_path / "roofline.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="peaks"):
        roofline.plot_roofline(result(row()), tmp_path / "none.png")
    with pytest.raises(ValueError, match="timed rows"):
        roofline.plot_roofline({**measured, "rows": []}, tmp_path / "none.png")


def test_a_sweep_varies_one_thing_and_nothing_else() -> None:
    for axis, values in sweep.AXES.items():
        for value in values:
            workload, full, small = sweep.vary(axis, value)
            found = {
                "samples": workload.settings.n_samples,
                "rays": full.rays,
                "channels": workload.channels,
                "layers": len(workload.hidden),
                "width": workload.hidden[0],
                "objects": full.views,
            }
            base = {
                "samples": 128, "rays": 4096, "channels": 40, "layers": 9, "width": 64, "objects": 8
            }  # fmt: skip
            assert found == {**base, axis: value}
            assert small.views == full.views
            assert small.rays * 64 == full.rays
            assert CASES[f"sweep {axis} {value}"].sweep == (axis, value)


def test_sweeps_run_when_named_only(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(
        cli, "run_here", lambda cases, *rest: chosen.extend(case.name for case in cases)
    )
    monkeypatch.setattr(cli, "write_result", lambda path, result: None)
    threads = ["--threads", str(torch.get_num_threads())]
    assert cli.main(["--device", "cpu", "--quick", "--no-plot", *threads]) == 0
    assert chosen
    assert not any(name.startswith("sweep") for name in chosen)
    chosen.clear()
    assert cli.main(["--device", "cpu", "--quick", "--no-plot", *threads, "--only", "sweep r"]) == 0
    assert chosen == [f"sweep rays {n}" for n in sweep.AXES["rays"]]


def test_a_sweep_is_measured_and_drawn(tmp_path: Path) -> None:
    options = Options(CPU, quick=True, memory=False, budget=0.0)
    case = CASES["sweep samples 32"]
    rows = measure_pass(case, "forward", options)
    assert [(r["renderer"], r["status"]) for r in rows] == [("reference", "ok"), ("ours", "ok")]
    assert all(r["axis"] == "samples" and r["value"] == 32 for r in rows)
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    more = [{**r, "value": 64, "peak_bytes": 10**6} for r in rows]
    path = plot_sweep.plot_sweep(result(*rows, *more), tmp_path / "sweep.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="--only sweep"):
        plot_sweep.plot_sweep(result(row()), tmp_path / "none.png")


def test_what_the_compiler_says_is_a_table_too(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    target.write_text("<!-- bench static: begin -->\n<!-- bench static: end -->\n")
    assert cli.main(["page", str(static_baseline.PATH), str(target)]) == 0
    written = target.read_text()
    assert "| render A forward | " in written
    assert "sm_80" not in written
    assert page.static_table(static_baseline.PATH, "sm_80") not in written
