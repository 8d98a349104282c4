"""Cases that take milliseconds: the workloads with less of everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from bench.case import PASSES, Case, Renderer, Size
from bench.operators.render_rays import CASES as RENDERING
from bench.workloads import A, B, Inputs, Workload

CPU = torch.device("cpu")
SMALL_A = replace(A, plane_side=8, channels=4, hidden=(8, 8))
SMALL_B = replace(B, plane_side=8, channels=4, hidden=(8,))


def small_case(index: int, workload: Workload, **more: Renderer) -> Case:
    """A rendering case on a small workload, with ``more`` renderers."""
    case = RENDERING[index]
    renderers = {k: v for k, v in case.renderers.items() if k not in ("ours tf32",)}
    return replace(
        case,
        make=workload.problem,
        renderers={**renderers, **more},
        cpu=dict.fromkeys(PASSES, Size(1, 6)),
        memory=False,
    )


def wrong(x: Inputs) -> tuple[torch.Tensor, ...]:
    """A renderer whose pictures are of a colour."""
    zero = sum(leaf.sum() for leaf in x.leaves) * 0
    return x.rays_o * 0 + zero, x.rays_o[..., 0] * 0 + zero


def broken(x: Inputs) -> tuple[torch.Tensor, ...]:
    """A renderer that fails."""
    raise RuntimeError("out of order\nmore about it")


def row(**changes: Any) -> dict[str, Any]:
    """A made-up row of a result."""
    return {
        "case": "render_rays A",
        "pass": "forward",
        "renderer": "ours",
        "status": "ok",
        "views": 1,
        "rays": 10,
        "samples": 1280,
        "p20_ms": 9.99,
        "p50_ms": 10.0,
        "p80_ms": 10.01,
        "calls": 50,
        "rms_error": 0.0,
        "max_error": 0.0,
        **changes,
    }


def result(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A made-up result on a GPU."""
    found = {
        "device": "cuda",
        "slug": "some-gpu",
        "gpu": "Some GPU",
        "cpu": "Some CPU",
        "threads": 2,
        "driver": "1.2",
        "torch": "2.11",
        "triton": "3.6",
        "python": "3.12",
        "commit": "abc",
        "load_before": 0.1,
    }
    return {
        "format": 1,
        "date": "2025-01-01T00:00:00+00:00",
        "quick": False,
        "conditions": found,
        "rows": list(rows),
        **changes,
    }
