"""Batches ahead: order, errors, worker processes that die."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from fastrecon.prefetch import Prefetch


def described(step: int) -> tuple[int, int]:
    """Found by worker processes, therefore of the module."""
    return step * step, os.getpid()


def failing(step: int) -> int:
    if step == 1:
        raise ValueError("no such object")
    return step


def dying(step: int) -> int:
    if step == 1:
        os._exit(9)
    return step


def test_every_batch_is_made_once_in_another_thread() -> None:
    made = []

    def make(step: int) -> int:
        made.append((step, threading.current_thread() is threading.main_thread()))
        return step * step

    batches = Prefetch(make, last=6)
    assert [batches.take(step) for step in range(3, 6)] == [9, 16, 25]
    batches.close()
    assert made == [(3, False), (4, False), (5, False)]


@pytest.mark.parametrize("depth", [1, 3])
def test_batches_are_made_ahead_but_not_beyond_the_last(depth: int) -> None:
    made = []
    batches = Prefetch(lambda step: made.append(step), last=6)
    batches.depth = depth
    batches.take(0)
    batches.take(1)
    assert set(range(depth)) < set(batches._ahead) | {0, 1}
    for step in range(2, 6):
        batches.take(step)
    assert not batches._ahead
    batches.close()
    assert made == list(range(6))


def test_errors_surface_where_the_batch_is_taken() -> None:
    batches = Prefetch(failing, last=3)
    assert batches.take(0) == 0
    with pytest.raises(ValueError, match="no such object"):
        batches.take(1)
    batches.close()


def test_processes_make_batches_in_order_and_pass_errors_on() -> None:
    batches = Prefetch(described, last=5, workers=1)
    assert batches.depth == 1
    values, makers = zip(*(batches.take(step) for step in range(5)), strict=True)
    batches.close()
    assert values == (0, 1, 4, 9, 16)
    assert os.getpid() not in makers


def test_a_worker_s_own_error_is_its_own() -> None:
    batches = Prefetch(failing, last=3, workers=1)
    assert batches.take(0) == 0
    with pytest.raises(ValueError, match="no such object"):
        batches.take(1)
    begun = time.monotonic()
    batches.close()
    assert time.monotonic() - begun < 20


def test_a_worker_that_dies_is_explained() -> None:
    batches = Prefetch(dying, last=3, workers=1)
    with pytest.raises(RuntimeError, match=r"died.*--run\.data-workers 0"):
        [batches.take(step) for step in range(3)]
    batches.close()


def test_a_worker_leaves_signals_to_the_trainer() -> None:
    batches = Prefetch(described, last=4, workers=1)
    _, worker = batches.take(0)
    for signum in (signal.SIGTERM, signal.SIGINT):  # as a scheduler and a terminal send to all
        os.kill(worker, signum)
    assert batches.take(3) == (9, worker)
    batches.close()
