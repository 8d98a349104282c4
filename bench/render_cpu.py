"""Time and training memory of `render_rays` on a CPU against TripoSR's own algorithm.

    python -m bench.render_cpu [--image-side 128] [--repeats 5] [--out result.json]

Workload A, one view. Every renderer is first checked against the baseline's picture; a renderer
that fails is reported and not timed. Forward passes are timed in turns in one process. Peak
memory of forward + backward over a quarter of the rays is measured in a process per renderer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastrecon_kernels import render_rays
from torch import Tensor

from bench.baselines.triposr import render_triposr
from bench.conditions import ROOT, conditions
from bench.memory import peak_growth
from bench.workloads import A, Inputs

Renderer = Callable[[Inputs], Tensor]


def baseline(x: Inputs) -> Tensor:
    """TripoSR's algorithm in fp32."""
    return render_triposr(x.planes, x.mlp, x.rays_o, x.rays_d)[0]


def baseline_bf16(x: Inputs) -> Tensor:
    """TripoSR's algorithm under bf16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return baseline(x)


def ours(**options: str) -> Renderer:
    """`render_rays` with the given backend and precision."""

    def render(x: Inputs) -> Tensor:
        return render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, **options).rgb  # type: ignore[arg-type]

    return render


RENDERERS: dict[str, tuple[Renderer, float]] = {
    "baseline": (baseline, 0.0),
    "baseline bf16": (baseline_bf16, 5e-2),
    "reference": (ours(backend="reference"), 1e-5),
    "auto": (ours(backend="auto"), 1e-5),
    "auto bf16": (ours(backend="auto", precision="bf16"), 5e-2),
}
"""Each renderer and the largest difference from the baseline's colours that it may have."""


def check(x: Inputs) -> dict[str, float]:
    """Largest colour difference of every renderer from the baseline."""
    expected = baseline(x)
    return {name: float((f(x) - expected).abs().max()) for name, (f, _) in RENDERERS.items()}


def time_in_turns(x: Inputs, names: list[str], repeats: int) -> dict[str, list[float]]:
    """Seconds of ``repeats`` forward passes of each renderer, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            start = time.perf_counter()
            RENDERERS[name][0](x)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def train_step(name: str, x: Inputs, n_rays: int) -> None:
    """Forward and backward over the first ``n_rays`` rays of every view."""
    part = Inputs(x.planes, x.levels, x.mlp, x.rays_o[:, :n_rays], x.rays_d[:, :n_rays], x.settings)
    RENDERERS[name][0](part).square().sum().backward()


def measure_memory(name: str, image_side: int) -> int:
    """Peak growth in bytes of a training step over the middle quarter of the rays."""
    x = A.inputs(views=1, image_side=image_side, requires_grad=True)
    quarter = image_side**2 // 4
    start = (image_side**2 - quarter) // 2  # whole rows through the object, not the empty top
    x.rays_o, x.rays_d = (r[:, start : start + quarter] for r in (x.rays_o, x.rays_d))
    train_step(name, x, 16)
    return peak_growth(lambda: train_step(name, x, quarter))


def memory_of(name: str, image_side: int) -> int:
    """`measure_memory` in a fresh process."""
    command = [sys.executable, "-m", "bench.render_cpu", "--memory-of", name]
    command += ["--image-side", str(image_side), "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def percentile(values: list[float], q: int) -> float:
    """The q-th percentile, of one value too."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[q - 1]


@torch.no_grad()
def measure_time(image_side: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Parity, then times, of every renderer."""
    x = A.inputs(views=1, image_side=image_side)
    errors = check(x)
    rows: dict[str, dict[str, Any]] = {}
    for name, (_, tolerance) in RENDERERS.items():
        rows[name] = {"max_error": errors[name], "parity": errors[name] <= tolerance}
    seconds = time_in_turns(x, [n for n, row in rows.items() if row["parity"]], repeats)
    base = statistics.median(seconds["baseline"])
    for name, values in seconds.items():
        rows[name] |= {f"p{q}_s": percentile(values, q) for q in (20, 50, 80)}
        rows[name]["speedup"] = base / statistics.median(values)
    return rows


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """One row per renderer."""
    print(f"{'renderer':<15} {'p20 s':>8} {'p50 s':>8} {'p80 s':>8} {'x base':>7}", end=" ")
    print(f"{'train MB':>9} {'max error':>10}")
    for name, row in rows.items():
        if "p50_s" in row:
            times = " ".join(f"{row[f'p{q}_s']:8.3f}" for q in (20, 50, 80))
            times += f" {row['speedup']:7.2f}"
        else:
            times = f"{'parity failed, not timed':>34}"
        memory = f"{row['train_bytes'] / 1e6:9.0f}" if "train_bytes" in row else f"{'-':>9}"
        print(f"{name:<15} {times} {memory} {row['max_error']:10.1e}")


def main(argv: list[str] | None = None) -> int:
    """Command line; 1 if a renderer's picture is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.render_cpu", description=__doc__)
    parser.add_argument("--image-side", type=int, default=128, help="128: workload A's 16,384 rays")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="skip the memory measurements")
    parser.add_argument("--out", type=Path, help="write the result here as JSON too")
    parser.add_argument("--memory-of", choices=list(RENDERERS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(measure_memory(options.memory_of, options.image_side))
        return 0
    result: dict[str, Any] = {
        "benchmark": "render_cpu",
        "workload": A.name,
        "views": 1,
        "rays": options.image_side**2,
        "train_rays": options.image_side**2 // 4,
        "repeats": options.repeats,
        "conditions": conditions(),
    }
    rows = measure_time(options.image_side, options.repeats)
    if not options.no_memory:
        for name, row in rows.items():
            row["train_bytes"] = memory_of(name, options.image_side)
    result["rows"] = rows
    print_table(rows)
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    return 0 if all(row["parity"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
