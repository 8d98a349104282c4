"""Parity comes first, an error costs its own row, times are taken in turns."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
import torch

from bench import clock, harness, memory
from bench.case import EXACT, Case, Renderer, Size
from bench.fresh import measure_memory
from bench.harness import Options, differences, measure_pass
from tests.bench.small_cases import CPU, SMALL_A, SMALL_B, broken, small_case, wrong

OPTIONS = Options(CPU, memory=False, budget=0.0)


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["renderer"]: row for row in rows}


@pytest.mark.parametrize("which", ["forward", "forward+backward"])
def test_rows_have_times_errors_and_ratios(which: Any) -> None:
    rows = by_name(measure_pass(small_case(1, SMALL_B), which, OPTIONS))
    assert list(rows) == ["published", "published bf16", "reference", "ours", "ours bf16"]
    for row in rows.values():
        assert row["status"] == "ok"
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["calls"] == 2
        assert row["samples"] == 6 * 64
        assert ("gradient_error" in row) == (which == "forward+backward")
    assert rows["published"]["x_published"] == rows["reference"]["x_eager"] == 1
    expected = rows["reference"]["p50_ms"] / rows["ours"]["p50_ms"]
    assert rows["ours"]["x_eager"] == pytest.approx(expected)
    assert 0 < rows["published bf16"]["rms_error"] < 0.02


@pytest.mark.parametrize("which", ["forward", "forward+backward"])
def test_a_wrong_renderer_is_not_timed_and_a_broken_one_harms_nobody(which: Any) -> None:
    case = small_case(0, SMALL_A, wrong=Renderer(wrong), broken=Renderer(broken))
    rows = by_name(measure_pass(case, which, OPTIONS))
    assert rows["wrong"]["status"] == "parity"
    assert "p50_ms" not in rows["wrong"]
    assert rows["broken"]["status"] == "error"
    assert rows["broken"]["error"] == "RuntimeError: out of order"
    assert rows["ours"]["status"] == "ok"
    assert "p50_ms" in rows["ours"]


def test_without_the_published_renderer_parity_is_with_the_next() -> None:
    case = small_case(0, SMALL_A)
    case = Case(
        case.name,
        case.make,
        {**case.renderers, "published": Renderer(broken), "published bf16": Renderer(broken)},
        case.cpu,
    )
    rows = by_name(measure_pass(case, "forward", OPTIONS))
    assert rows["published"]["status"] == "error"
    assert rows["ours"]["status"] == "ok"
    assert "x_published" not in rows["ours"]
    assert rows["ours"]["x_eager"] > 0


def test_compiled_renderers_are_asked_for() -> None:
    case = small_case(0, SMALL_A)
    assert "published compiled" not in harness.chosen(case, OPTIONS)
    assert "published compiled" in harness.chosen(case, Options(CPU, compile=True))


def test_differences_see_results_gradients_and_nan() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
    found = differences([one, two], [two, one], 1)
    assert found["max_error"] == 0.5
    assert found["rms_error"] == pytest.approx(0.5 / 2**0.5)
    assert found["gradient_error"] == pytest.approx(0.5 / 5**0.5)
    lost = differences([one * torch.nan], [one], 1)
    assert not harness.agrees(lost, EXACT)


def test_turns_stop_at_the_budget() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.02)

    def fast() -> None:
        order.append("fast")

    seconds = clock.time_in_turns(
        clock.CpuClock(), {"slow": slow, "fast": fast}, budget=0.01, least=2, most=7
    )
    assert [len(s) for s in seconds.values()] == [2, 7]
    assert order == ["slow", "fast"] * 2 + ["fast"] * 5
    assert min(seconds["slow"]) >= 0.02


def test_percentiles() -> None:
    assert clock.percentile([3.0], 80) == 3
    assert clock.percentile([1.0, 2.0, 3.0], 50) == 2


class FakeEvent:
    """A CUDA event that counts: each is a millisecond after the one before."""

    now = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.now += 1
        self.at = FakeEvent.now

    def elapsed_time(self, end: FakeEvent) -> float:
        return float(end.at - self.at)


def test_the_gpu_clock_times_between_events_and_waits_after_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append(len(calls)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 150)
    monkeypatch.setattr(clock, "FLUSH_BYTES", 16)
    calls: list[int] = []
    gpu = clock.CudaClock(CPU)
    steps = {"a": lambda: calls.append(0), "b": lambda: calls.append(1)}
    seconds = clock.time_in_turns(gpu, steps, budget=0.0, least=3, most=9)
    assert seconds == {"a": [1e-3] * 3, "b": [1e-3] * 3}
    assert calls == [0, 0, 1, 1, *[0, 1] * 3]
    assert waits == [4, 6, 8, 10]
    assert gpu.peak(steps["a"]) == 50


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_growth_sees_what_was_freed_again() -> None:
    grown = memory.peak_growth(lambda: torch.ones(64 << 18).sum())
    assert 60 << 20 < grown < 80 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_measured_in_a_fresh_process() -> None:
    size = Size(1, 4096)
    peak = measure_memory("composite A", "reference", "forward+backward", size)
    assert peak > 4096 * 128 * 4 * 4  # at least a copy of the records


def test_a_fresh_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="exit status 1"):
        measure_memory("composite A", "reference", "forward", Size(1, 1))
