"""Measuring launch choices: stage by stage, each alternative checked against the defaults' results.

An alternative that raises, that spills more than a few registers or computes something else is left
out, and is not timed. The others are timed in turns, so that a change of clock or load meets all of
them, and the current choice stays unless another is faster by more than noise.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .candidates import Stage, stages, tunings
from .kept import CHECKS, Parts, combine
from .kernel import field_kernel
from .kernel_backward import group_backward_kernel
from .kernel_fold import fold_backward_kernel
from .kernel_taps import point_backward_kernel, tap_backward_kernel
from .kernel_windows import window_backward_kernel
from .trial import Size, Step, Trial
from .tuned import FieldKey
from .tuning import Tuning, row_of, tuning_of

MARGIN = 0.02
"""A choice must be faster by more than this to replace another."""
TOLERANCE = {"bf16": (2e-2, 0.1), "tf32": (3e-3, 0.05), "fp32": (2e-5, 1e-3)}
"""Largest relative difference (rms) of results and of gradients, as the benchmark's parity has."""
MAX_SPILLED = 256
"""Bytes per thread: every thread that a GPU can hold gets them, 70 MB on an H200. Fewer may pay:
half the warps for a tile can take fewer instructions in spite of them (bench/NOTES.md)."""
WARM_UPS = 2
LEAST_TURNS, MOST_TURNS, BUDGET = 7, 31, 2.0
"""Timed calls of each alternative, and seconds after which a stage takes no more of them."""
AHEAD = 4_000_000
"""Cycles for which the GPU waits before a timed call, so that the host gets all of it launched."""
KERNELS: tuple[Any, ...] = (
    field_kernel,
    group_backward_kernel,
    window_backward_kernel,
    tap_backward_kernel,
    point_backward_kernel,
    fold_backward_kernel,
)


class Clock(Protocol):
    """How steps are timed."""

    def time(self, steps: Sequence[Step]) -> list[list[float]]:
        """Milliseconds of several calls of each, a call of each per turn."""
        ...


class CudaClock:
    """Events around calls; the host waits once per turn."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def time(self, steps: Sequence[Step]) -> list[list[float]]:
        for step in steps:
            for _ in range(WARM_UPS):
                step()
        torch.cuda.synchronize(self.device)
        taken: list[list[float]] = [[] for _ in steps]
        end = time.monotonic() + BUDGET
        for turn in range(MOST_TURNS):
            if turn >= LEAST_TURNS and time.monotonic() > end:
                break
            events = []
            for step in steps:
                before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda._sleep(AHEAD)
                before.record()
                step()
                after.record()
                events.append((before, after))
            torch.cuda.synchronize(self.device)
            for times, (before, after) in zip(taken, events, strict=True):
                times.append(before.elapsed_time(after))
        return taken


@dataclass
class Attempt:
    """An alternative and what became of it."""

    stage: str
    tuning: Tuning
    milliseconds: float | None = None  # median
    left_out: str = ""  # why, if it was not timed
    spilled: int = 0  # bytes per thread, of what was compiled for it
    taken: bool = False


@dataclass
class Measured:
    """Attempts in their order, and the choice."""

    attempts: list[Attempt] = field(default_factory=list)
    parts: Parts = field(default_factory=dict)


@torch.no_grad()
def measure_field(
    device: torch.device,
    key: FieldKey,
    sides: tuple[int, ...],
    parts: tuple[str, ...] = ("forward", "backward"),
    *,
    combine_with: Parts | None = None,
    clock: Clock | None = None,
    size: Size | None = None,
    alternatives: Sequence[Stage] | None = None,
    report: Callable[[Sequence[Attempt]], None] = lambda attempts: None,
) -> Measured:
    """Time the alternatives for a field and take the best.

    Args:
        sides: of the planes of each level.
        parts: of `Tuning` that are measured, "forward", "backward" or both.
        combine_with: parts that were measured before.
        clock, size, alternatives: other than the usual ones.
        report: called with the attempts of each stage once it is done.

    Raises:
        RuntimeError: not even the defaults run.
    """
    default = tuning_of(device, key.precision)
    current = combine(default, combine_with or {})
    if alternatives is None:
        alternatives = stages(row_of(device, key.precision), key.shape, parts)
    found = Measured()
    with torch.cuda.device_of(torch.empty(0, device=device)):
        try:
            trial = Trial(device, key, sides, size or Size(), default)
            rules = {}
        except Exception as error:
            raise RuntimeError(what(error)) from error
        timer = clock or CudaClock(device)
        for stage in alternatives:
            choices = list(tunings(stage, key.shape, key.precision, current))
            if len(choices) == 1:
                continue
            if stage.part not in rules:
                rules = {stage.part: make_rule(trial, stage, default)}
            attempts = run_stage(trial, stage, choices, rules[stage.part], timer)
            current = next(attempt.tuning for attempt in attempts if attempt.taken)
            found.attempts += attempts
            report(attempts)
    for part in {stage.part for stage in alternatives}:
        found.parts[part] = {name: getattr(current, name) for name in CHECKS[part]}
    return found


class Rule(NamedTuple):
    """What the defaults give, and others have to."""

    results: list[Tensor]
    spilled: int  # bytes per thread


def make_rule(trial: Trial, stage: Stage, default: Tuning) -> Rule:
    """The defaults' results in the stages of a part."""
    before = compiled_kernels(trial.device)
    try:
        results = trial.results(stage.name, default)
    except Exception as error:
        raise RuntimeError(what(error)) from error
    return Rule(results, spilled_bytes(compiled_kernels(trial.device), before))


def run_stage(
    trial: Trial, stage: Stage, choices: Sequence[Tuning], rule: Rule, clock: Clock
) -> list[Attempt]:
    """Check and time one stage's choices, of which the first is the current one; one is taken."""
    key = trial.key
    found: list[Attempt] = []
    steps: list[Step] = []
    for tuning in choices:
        attempt = Attempt(stage.name, tuning)
        found.append(attempt)
        try:
            before = compiled_kernels(trial.device)
            got = trial.results(stage.name, tuning)
            attempt.spilled = spilled_bytes(compiled_kernels(trial.device), before)
            gap = difference(got, rule.results, key.precision)
            del got
            step = trial.step(stage.name, tuning)
            step()
        except Exception as error:
            attempt.left_out = what(error)
            continue
        if gap:
            attempt.left_out = gap
        elif attempt.spilled > max(MAX_SPILLED, rule.spilled):
            attempt.left_out = f"spills {attempt.spilled} bytes per thread"
        else:
            steps.append(step)
    timed = [attempt for attempt in found if not attempt.left_out]
    for attempt, times in zip(timed, clock.time(steps) if steps else (), strict=True):
        attempt.milliseconds = statistics.median(times)
    best(found).taken = True
    return found


def best(attempts: Sequence[Attempt]) -> Attempt:
    """The fastest, or the first where none is faster than it by more than `MARGIN`.

    Also the first where that could not be timed, for then nothing is known to be faster.
    """
    first = attempts[0]
    if first.milliseconds is None:
        return first
    timed = [(a.milliseconds, a) for a in attempts if a.milliseconds is not None]
    least, fastest = min(timed, key=lambda pair: pair[0])
    return fastest if least < first.milliseconds * (1 - MARGIN) else first


def difference(got: Iterable[Tensor], expected: Iterable[Tensor], precision: str) -> str:
    """How results differ beyond their tolerance, or nothing; the first two are no gradients."""
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        limit = TOLERANCE[precision][i >= 2]
        g, e = g.float(), e.float()
        scale = (e - e.mean() if i < 2 else e).norm().clamp(min=1e-12)
        gap = float((g - e).norm() / scale)
        if not gap <= limit:  # so is NaN
            name = ("raw density", "colour")[i] if i < 2 else "a gradient"
            return f"{name} differs by {gap if math.isfinite(gap) else math.inf:.1e}"
    return ""


def what(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def compiled_kernels(device: torch.device) -> dict[int, Any]:
    """What Triton holds of the kernels on a device, by identity.

    Nothing in the interpreter, or where another Triton holds them elsewhere: then spills stay
    unknown, and time alone decides.
    """
    found: dict[int, Any] = {}
    for kernel in KERNELS:
        with contextlib.suppress(AttributeError, LookupError, TypeError):
            if device.index in kernel.device_caches:
                held = kernel.device_caches[device.index][0].values()
                found |= {id(compiled): compiled for compiled in held}
    return found


def spilled_bytes(now: dict[int, Any], before: dict[int, Any]) -> int:
    """Largest local memory per thread among the kernels that were compiled since ``before``."""
    fresh = (compiled for name, compiled in now.items() if name not in before)
    return max((4 * (getattr(compiled, "n_spills", 0) or 0) for compiled in fresh), default=0)
