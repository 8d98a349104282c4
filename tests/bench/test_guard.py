"""The guard fails on a loss beyond noise, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from bench.guard import find_losses, standard_error
from tests.bench.small_cases import result, row

PEER = row(renderer="published")


def times(middle: float, spread: float = 0.001, **more: Any) -> dict[str, Any]:
    """A row of ours with this median and relative half distance of p20 and p80."""
    return row(p20_ms=middle * (1 - spread), p50_ms=middle, p80_ms=middle * (1 + spread), **more)


def losses(*rows: dict[str, Any], then: Any = None, **more: Any) -> list[str]:
    return find_losses(result(*rows), then or result(times(10.0), PEER), **more)


def test_the_same_is_no_loss() -> None:
    assert losses(times(10.0), PEER) == []


def test_6_percent_with_small_noise_is_a_loss() -> None:
    (line,) = losses(times(10.0 / 0.94), PEER)
    assert "0.94x the published renderer, was 1.00x: 6.0% slower (allowed 5% + 0.8%" in line
    assert losses(times(10.0 / 0.95), PEER) == []


def test_the_same_loss_within_noise_passes() -> None:
    assert losses(times(10.0 / 0.94, 0.02, calls=9), PEER) == []


def test_a_busy_machine_slows_both() -> None:
    slow_peer = row(renderer="published", p20_ms=19.9, p50_ms=20.0, p80_ms=20.1)
    assert losses(times(20.0), slow_peer) == []
    (line,) = losses(times(10.0), row(renderer="published", p20_ms=5, p50_ms=5.0, p80_ms=5))
    assert "50.0% slower" in line


def test_faster_is_no_loss() -> None:
    assert losses(times(5.0), PEER) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "parity"}, "fails parity"),
        ({"status": "error", "error": "OutOfMemoryError: too large"}, "OutOfMemoryError"),
        ({"case": "another"}, "missing"),
        ({"rays": 5}, "another size"),
    ],
)
def test_what_was_not_measured_is_a_loss(change: dict[str, Any], words: str) -> None:
    assert any(words in line for line in losses(times(10.0, **change), PEER))


def test_without_the_published_renderer_there_is_nothing_to_compare() -> None:
    assert "no time of it" in losses(times(10.0))[0]


def test_memory_may_grow_by_5_percent_and_16_mb() -> None:
    then = result(times(10.0, peak_bytes=10**9), PEER)
    assert losses(times(10.0, peak_bytes=1_060_000_000), PEER, then=then) == []
    (line,) = losses(times(10.0, peak_bytes=1_080_000_000), PEER, then=then)
    assert line.endswith("1080 MB, was 1000 MB")


def test_only_our_rows_and_the_cases_asked_for_are_guarded() -> None:
    then = result(times(10.0), PEER, row(renderer="published bf16"))
    assert losses(times(10.0), PEER, then=then) == []
    assert losses(PEER, then=then, cases={"composite A"}) == []
    assert losses(PEER, then=then, cases={"render_rays A"}) == [
        "render_rays A, forward, ours: missing"
    ]


def test_noise_falls_with_the_number_of_calls() -> None:
    row: Any = times(10.0, 0.1, calls=9)
    assert standard_error(row, 0.002) == pytest.approx(0.05)
    row["calls"] = 2
    assert standard_error(times(10.0, 0.0, calls=2), 0.002) == 0.05
    row["calls"] = 10_000
    assert standard_error(row, 0.002) == 0.002
