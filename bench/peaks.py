"""What a device can do at most, measured: the lines that a roofline is drawn with."""

from __future__ import annotations

import torch

from bench.clock import make_clock, time_in_turns

SIDES = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices that are multiplied."""
COPIED = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Bytes that are copied: far more than any cache holds."""


def measure_peaks(device: torch.device) -> dict[str, float]:
    """The best of a few calls of the library's own products and copy.

    Returns:
        "fp32", "tf32" (on a GPU) and "bf16" in floating point operations per second, and "memory"
        in bytes per second, read and written together.
    """
    side, kind = SIDES[device.type], device.type
    clock = make_clock(device)
    found: dict[str, float] = {}

    def best(step) -> float:
        return min(time_in_turns(clock, {"": step}, budget=0.5, least=3, most=20)[""])

    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for name in ("fp32", "bf16") if kind == "cpu" else ("fp32", "tf32", "bf16"):
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            dtype = torch.bfloat16 if name == "bf16" else torch.float32
            x = torch.randn(side, side, device=device).to(dtype)
            out = torch.empty_like(x)
            found[name] = 2 * side**3 / best(lambda x=x, out=out: torch.mm(x, x, out=out))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    source = torch.zeros(COPIED[kind] // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["memory"] = COPIED[kind] / best(lambda: target.copy_(source))
    if kind == "cuda":  # the cases run in processes of their own, which need the room
        del x, out, source, target
        torch.cuda.empty_cache()
    return found
