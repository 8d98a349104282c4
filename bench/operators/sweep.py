"""Workload A with one thing varied at a time: how time and memory grow with it.

Run when named only (`python -m bench --only sweep`, or "sweep samples"): every point is a kernel to
compile. The base is a quarter of the workload's rays, so that the reference's backward pass fits a
GPU beside which ours is drawn.
"""

from __future__ import annotations

from dataclasses import replace

from bench.case import BF16, EAGER, EXACT, TF32, Case, Renderer, Size
from bench.operators.render_rays import ours
from bench.workloads import VIEWS, A, Workload

RAYS, CPU_RAYS = 4096, 64
"""Of each object, on a GPU and on a CPU."""
AXES: dict[str, tuple[int, ...]] = {
    "samples": (32, 64, 128, 256, 512),
    "rays": (512, 2048, 4096, 16384),
    "channels": (16, 32, 40, 64, 128),
    "layers": (1, 3, 5, 9, 13),
    "width": (16, 32, 64, 128),
    "objects": (1, 2, 4, 8, 16),
}
"""What is varied: samples of a ray, rays of an object, channels of a plane, hidden layers of the
decoder and their width, objects of a batch."""

RENDERERS = {
    EAGER: Renderer(ours(backend="reference")),
    "ours": Renderer(ours(), EXACT, ("cpu",)),
    "ours tf32": Renderer(ours(precision="tf32"), TF32, ("cuda",)),
    "ours bf16": Renderer(ours(precision="bf16"), BF16, ("cuda",)),
}


def vary(axis: str, value: int) -> tuple[Workload, Size, Size]:
    """The workload with one thing changed, and its size on a GPU and on a CPU."""
    workload, views, scale = A, VIEWS, 1.0
    if axis == "samples":
        workload = replace(A, settings=replace(A.settings, n_samples=value))
    elif axis == "rays":
        scale = value / RAYS
    elif axis == "channels":
        workload = replace(A, channels=value)
    elif axis == "layers":
        workload = replace(A, hidden=A.hidden[:1] * value)
    elif axis == "width":
        workload = replace(A, hidden=(value,) * len(A.hidden))
    else:
        views = value
    return workload, Size(views, int(RAYS * scale)), Size(views, int(CPU_RAYS * scale))


def case(axis: str, value: int) -> Case:
    workload, full, small = vary(axis, value)
    return Case(
        f"sweep {axis} {value}",
        workload.problem,
        RENDERERS,
        cpu={"forward": small, "forward+backward": small},
        full=full,
        memory=True,
        extra=True,
        sweep=(axis, value),
    )


CASES = tuple(case(axis, value) for axis, values in AXES.items() for value in values)
