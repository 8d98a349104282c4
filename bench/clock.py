"""Timing and peak memory on a device, in turns, so that a change of load meets every competitor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

Step = Callable[[], object]

FLUSH_BYTES = 256 << 20
"""Written before every timed call: more than any L2 cache holds (H200: 50 MB)."""


class Clock(Protocol):
    """How a device is timed."""

    warm_ups: int
    """Calls after the first one before times are taken."""

    def start(self, step: Step) -> Callable[[], float]:
        """Run a step; the result gives its seconds, once `finish` has returned."""
        ...

    def finish(self) -> None:
        """Wait for everything that was started."""
        ...


class CpuClock:
    """Wall time of a call."""

    warm_ups = 0

    def start(self, step: Step) -> Callable[[], float]:
        begin = time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        return lambda: seconds

    def finish(self) -> None:
        pass


class CudaClock:
    """Events around a call on a cold L2 cache; the host waits only between turns.

    The flush keeps the GPU busy while the host gets ahead of it; a call shorter than what the
    host needs to launch it is timed with those gaps, as its user would see it.
    """

    warm_ups = 2

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def start(self, step: Step) -> Callable[[], float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        begin.record()
        step()
        end.record()
        return lambda: begin.elapsed_time(end) / 1e3

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)

    def peak(self, step: Step) -> int:
        """Largest number of bytes allocated above what was there before, results included."""
        self.finish()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        step()
        self.finish()
        return torch.cuda.max_memory_allocated(self.device) - before


def make_clock(device: torch.device) -> CpuClock | CudaClock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def time_in_turns(
    clock: Clock, steps: Mapping[str, Step], *, budget: float, least: int, most: int
) -> dict[str, list[float]]:
    """Seconds of each step's calls, a call of each per turn.

    A step that has used ``budget`` seconds drops out, but not before ``least`` calls; nobody gets
    more than ``most``.
    """
    for step in steps.values():
        for _ in range(clock.warm_ups):
            step()
    clock.finish()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(most):
        waiting = [n for n, taken in seconds.items() if len(taken) < least or sum(taken) < budget]
        if not waiting:
            break
        readings = [(name, clock.start(steps[name])) for name in waiting]
        clock.finish()
        for name, reading in readings:
            seconds[name].append(reading())
    return seconds


def percentile(values: list[float], q: int) -> float:
    """The q-th percentile, of one value too."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[q - 1]
