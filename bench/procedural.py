"""How fast procedural objects are made and seen.

    python -m bench.procedural [--processes 2] [--device cuda]

Every process makes objects of up to nine parts and renders one picture of each; the rate is that of
all processes together, from the first start to the last end. What a training batch costs is timed
apart, for a recipe.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier

import torch

from bench.conditions import conditions
from fastrecon.cameras import orbit_c2w, sample_orbits
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.stream import procedural_batch
from fastrecon.recipes import RECONSTRUCTION_RECIPES

TOGETHER = 8
"""Objects made in one call."""


def render_views(first: int, count: int, size: int, supersample: int, device: str) -> None:
    """Make ``count`` objects from index ``first`` on, and render a random view of each."""
    objects = ProceduralObjects(0, max_parts=9, device=device)
    azimuth, elevation = sample_orbits(torch.Generator().manual_seed(first), count)
    c2w = orbit_c2w(azimuth, elevation, 3.2)
    for begin in range(0, count, TOGETHER):
        end = min(begin + TOGETHER, count)
        scene = objects.batch(range(first + begin, first + end))
        scene.render(c2w[begin:end, None].to(device), size, 40.0, supersample)
    if device != "cpu":
        torch.cuda.synchronize()


def _work(barrier: Barrier, first: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    render_views(first, TOGETHER, options.size, options.supersample, options.device)  # warm-up
    barrier.wait()
    render_views(first, options.views, options.size, options.supersample, options.device)
    barrier.wait()


def views_per_second(options: argparse.Namespace) -> float:
    """Pictures per second of all processes together."""
    # Every process is to have one thread, and numpy's are set before it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(options.processes + 1)
    workers = [
        context.Process(target=_work, args=(barrier, i * options.views, options), daemon=True)
        for i in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return options.processes * options.views / seconds


def batch_seconds(recipe: str, device: str, repeats: int = 5) -> float:
    """The median time of a training batch in one process with one thread."""
    torch.set_num_threads(1)
    cfg = RECONSTRUCTION_RECIPES[recipe]()
    times = []
    for step in range(repeats + 1):
        start = time.perf_counter()
        procedural_batch(cfg, step, device)
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.procedural", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--views", type=int, default=128, help="per process")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures, pixels")
    parser.add_argument(
        "--supersample", type=int, default=1, help="rays along an edge pixel's side"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", default="small", choices=list(RECONSTRUCTION_RECIPES))
    options = parser.parse_args(arguments)
    result = {
        "benchmark": "procedural",
        **vars(options),
        "conditions": conditions(),
        "views_per_second": round(views_per_second(options), 1),
        "batch_seconds": round(batch_seconds(options.recipe, options.device), 3),
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
