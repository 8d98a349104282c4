"""Sums that are the same in any order, for ``deterministic=True``.

Additions of fp32 numbers round, so their sum depends on the order in which a GPU's atomic additions
happen to come; additions of whole numbers do not. A chunk's contributions are counted in units so
small that all of them together just fit 63 bits: about 2^-40 of the largest gradient of a sample
for chunks of 2^20 samples, much finer than fp32 is for sums of that size. Chunks follow each other
in a fixed order.
"""

# Triton types constexpr parameters as objects.
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.backend import FP_FUSION
from ..common.texels import level_table

if TYPE_CHECKING:
    from .launch import Samples

LARGEST_UNIT = 120
"""Exponent of the most units to one that fp32 holds, with room for its inverse."""
BLOCK = 1024


class ExactSums:
    """One chunk's sums, of the objects that its samples lie in.

    No sample adds more than ``gain`` times the largest of the ``gradients``.

    Attributes:
        sums: (T, WIDTH) int64, all 0; T texels of these objects alone.
        table: (L, 3) their `Texels.table`.
        first_object: the first of them.
        unit: () fp32, how many units are one: a power of two; NaN where a gradient is not finite,
            which makes the sums of all these objects NaN.
    """

    def __init__(
        self,
        sizes: tuple[tuple[int, int], ...],
        samples: Samples,
        gradients: tuple[Tensor, ...],
        width: int,
        gain: float = 1.0,
    ) -> None:
        device, per_object = gradients[0].device, samples.rays_per_object
        self.first_object = samples.first_ray // per_object
        last_ray = samples.first_ray + samples.rays_o.shape[0] - 1
        self.n_objects = last_ray // per_object - self.first_object + 1
        self.table = level_table(tuple((self.n_objects, 3, width, *size) for size in sizes), device)
        n_rows = self.n_objects * sum(3 * height * width for height, width in sizes)
        self.sums = torch.zeros(n_rows, width, dtype=torch.int64, device=device)
        bounds = [torch.linalg.vector_norm(g, torch.inf, dtype=torch.float32) for g in gradients]
        bound = gain * torch.stack(bounds).amax()
        # |sum| <= samples * bound * (1 + rounding) < 2^62.
        bits = samples.count.bit_length() + 1
        exponent = (62 - bits - torch.frexp(bound).exponent).clamp(max=LARGEST_UNIT)
        unit = torch.exp2(exponent.to(torch.float32))
        self.unit = torch.where(bound.isfinite(), unit, torch.nan)

    def add_to(self, total: Tensor, sizes: tuple[tuple[int, int], ...]) -> None:
        """Add the sums to those (T, WIDTH) fp32 of all objects."""
        n_all = total.shape[0] // sum(3 * height * width for height, width in sizes)
        width = total.shape[1]
        first_here, first_there = 0, 0
        for height, columns in sizes:
            size = 3 * height * columns
            here = self.sums[first_here : first_here + self.n_objects * size]
            start = first_there + self.first_object * size
            there = total[start : start + self.n_objects * size]
            count = there.shape[0] * width
            with torch.cuda.device_of(total):
                add_exact_kernel[(triton.cdiv(count, BLOCK),)](
                    there, here, self.unit, count, BLOCK=BLOCK, **FP_FUSION
                )
            first_here += self.n_objects * size
            first_there += n_all * size


@triton.jit(do_not_specialize=["count"])
def add_exact_kernel(total_ptr, sums_ptr, unit_ptr, count, BLOCK: tl.constexpr):
    """total (count,) fp32 += sums (count,) int64 / unit."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    value = tl.load(sums_ptr + offsets, mask=mask, other=0).to(tl.float32) / tl.load(unit_ptr)
    before = tl.load(total_ptr + offsets, mask=mask, other=0.0)
    tl.store(total_ptr + offsets, before + value, mask=mask)
