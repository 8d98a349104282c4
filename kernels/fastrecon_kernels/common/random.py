"""Counter-based uniform numbers: a pure function of (seed, ray, sample, stream).

The same few integer operations run in the kernels, so both backends, and any chunking of the
rays, see the same numbers. The mixer is the two-multiplication "lowbias32" finaliser; it is a
hash for jitter, not a generator for statistics.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

COARSE, FINE = 0, 1
"""Streams: jitter of the coarse samples, positions of the fine ones."""

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def _mix(x: Tensor) -> Tensor:
    """Scramble 32 bits that are held in int64 (torch has no full uint32 arithmetic)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def seed_tensor(seed: int | Tensor | None, device: torch.device) -> Tensor:
    """``seed`` as an int64 scalar on ``device``; None draws one from torch's default generator.

    The generator is the device's own, and an int is filled in by a kernel: nothing is copied from
    the host, so a CUDA graph can hold the call, and draws a new seed at every replay.
    """
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=device)
    if isinstance(seed, Tensor):
        if seed.numel() != 1 or seed.dtype.is_floating_point:
            raise ValueError(
                f"seed must be one integer, got a {seed.dtype} tensor of shape {tuple(seed.shape)}"
            )
        return seed.reshape(()).to(device=device, dtype=torch.int64)
    wrapped = (operator.index(seed) + 2**63) % 2**64 - 2**63
    return torch.full((), wrapped, dtype=torch.int64, device=device)


def uniform(seed: Tensor, rays: Tensor, n: int, stream: int) -> Tensor:
    """Uniform numbers in [0, 1) with 24 random bits.

    Args:
        seed: int64 scalar (see `seed_tensor`).
        rays: (N,) int64 flat ray index, counted over the whole batch.
        n: samples per ray.
        stream: `COARSE` or `FINE`.

    Returns:
        (N, n) float32.
    """
    low, high = seed & _MASK, (seed >> 32) & _MASK
    key = _mix(low ^ _mix(high ^ (_GOLDEN * (stream + 1) & _MASK)))
    ray_key = _mix(_mix(key ^ (rays & _MASK)) ^ ((rays >> 32) & _MASK))
    samples = torch.arange(n, device=rays.device, dtype=torch.int64) * _GOLDEN & _MASK
    bits = _mix((ray_key[:, None] + samples) & _MASK)
    return (bits >> 8).to(torch.float32) * 2.0**-24
