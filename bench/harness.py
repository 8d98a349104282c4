"""Measure a case: parity first, times in turns, memory; an error costs its own row only."""

from __future__ import annotations

import gc
import math
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.case import EAGER, PEER, Case, Pass, Problem, Renderer, Size, Tolerance
from bench.clock import CudaClock, make_clock, percentile, time_in_turns
from bench.fresh import measure_memory

Row = dict[str, Any]
"""One renderer on one case and pass, as it is written to JSON; `status` is "ok", "parity", "error".

Times are milliseconds, memory bytes; `x_eager` and `x_published` are ratios of medians."""


@dataclass(frozen=True)
class Options:
    """How to measure."""

    device: torch.device
    quick: bool = False
    compile: bool = False  # measure what torch.compile makes of the published renderer
    memory: bool = True
    budget: float = 5.0  # seconds of timed calls per renderer
    most: int = 50  # timed calls per renderer

    @property
    def least(self) -> int:
        """Timed calls of a renderer that has used its budget."""
        return 2 if self.quick or self.device.type == "cpu" else 5


def chosen(case: Case, options: Options) -> dict[str, Renderer]:
    """Who is measured on this device."""
    return {
        name: renderer
        for name, renderer in case.renderers.items()
        if options.device.type in renderer.devices and (options.compile or not renderer.compiled)
    }


def make_step(renderer: Renderer, problem: Problem, which: Pass) -> Callable[[], list[Tensor]]:
    """One forward pass, or one with the gradients of all leaves after it; results detached."""
    if which == "forward":

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return list(renderer.run(problem))

        return forward
    cotangents: list[Tensor] = []

    def both() -> list[Tensor]:
        results = renderer.run(problem)
        if not cotangents:
            cotangents.extend(make_cotangents(results))
        gradients = torch.autograd.grad(results, problem.leaves, cotangents)
        return [*(result.detach() for result in results), *gradients]

    return both


def make_cotangents(results: Iterable[Tensor]) -> list[Tensor]:
    """Random gradients of the results, the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(r.shape, generator=generator).to(r.device, r.dtype) for r in results]


def differences(got: list[Tensor], expected: list[Tensor], n_results: int) -> dict[str, float]:
    """How far results and gradients lie apart; NaN counts as infinitely far."""
    gaps = [
        (g.float() - e.float()).abs().flatten()
        for g, e in zip(got[:n_results], expected[:n_results], strict=True)
    ]
    found = {
        "rms_error": max(float(gap.square().mean().sqrt()) for gap in gaps),
        "max_error": max(float(gap.max()) for gap in gaps),
    }
    relative = [
        float((g.float() - e.float()).norm() / e.float().norm().clamp(min=1e-12))
        for g, e in zip(got[n_results:], expected[n_results:], strict=True)
    ]
    if relative:
        found["gradient_error"] = max(relative)
    return {name: value if value == value else math.inf for name, value in found.items()}


def agrees(found: dict[str, float], tolerance: Tolerance) -> bool:
    """Whether `differences` are within the tolerance."""
    return (
        found["rms_error"] <= tolerance.rms
        and found["max_error"] <= tolerance.largest
        and found.get("gradient_error", 0.0) <= tolerance.gradient
    )


def measure_pass(case: Case, which: Pass, options: Options) -> list[Row]:
    """Rows of one case and pass."""
    size = case.size(which, options.device, options.quick)
    problem = case.make(size, options.device, which != "forward")
    shared: Row = {
        "case": case.name,
        "pass": which,
        "views": size.views,
        "rays": size.rays,
        "samples": problem.n_samples,
    }
    if case.sweep is not None:
        shared["axis"], shared["value"] = case.sweep
    rows: dict[str, Row] = {}
    steps: dict[str, Callable[[], list[Tensor]]] = {}
    expected: list[Tensor] | None = None
    clock = make_clock(options.device)
    for name, renderer in chosen(case, options).items():
        row = rows[name] = {**shared, "renderer": name, "status": "ok"}
        step = make_step(renderer, problem, which)
        try:
            got = step()
            clock.finish()
            n_results = len(got) - (len(problem.leaves) if which != "forward" else 0)
            if expected is None:  # the first that runs; the published one but for an accident
                expected = got
            found = differences(got, expected, n_results)
            del got
            row |= found
            if not agrees(found, renderer.tolerance):
                row["status"] = "parity"
                continue
            if isinstance(clock, CudaClock) and options.memory:
                row["peak_bytes"] = clock.peak(step)
            steps[name] = step
        except Exception as error:
            record_error(row, error, options)
    expected = None
    try:
        seconds = time_in_turns(
            clock, steps, budget=options.budget, least=options.least, most=options.most
        )
    except Exception as error:
        for name in steps:
            record_error(rows[name], error, options)
        seconds = {}
    for name, taken in seconds.items():
        rows[name] |= {f"p{q}_ms": percentile(taken, q) * 1e3 for q in (20, 50, 80)}
        rows[name]["calls"] = len(taken)
    add_ratios(rows)
    if options.device.type == "cpu" and options.memory and case.memory:
        add_fresh_memory(case, which, size, options, rows)
    return list(rows.values())


def record_error(row: Row, error: Exception, options: Options) -> None:
    """Turn a row into an error row, and let go of the memory that the attempt may hold."""
    lines = str(error).strip().splitlines()
    row |= {"status": "error", "error": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    row["traceback"] = traceback.format_exception(error)[-8:]
    error.__traceback__ = None
    gc.collect()
    if options.device.type == "cuda":
        torch.cuda.empty_cache()


def add_ratios(rows: dict[str, Row]) -> None:
    """Ratios of medians of this very run."""
    for key, base in (("x_eager", EAGER), ("x_published", PEER)):
        median = rows.get(base, {}).get("p50_ms")
        for row in rows.values():
            if median is not None and "p50_ms" in row:
                row[key] = median / row["p50_ms"]


def add_fresh_memory(
    case: Case, which: Pass, size: Size, options: Options, rows: dict[str, Row]
) -> None:
    """Growth of the resident set of a fresh process per renderer; training is where it matters."""
    if which == "forward":
        return
    for name, row in rows.items():
        if row["status"] == "ok":
            try:
                row["peak_bytes"] = measure_memory(case.name, name, which, size)
            except Exception as error:
                row["memory_error"] = str(error)
