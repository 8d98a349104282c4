"""Scaled dot-product attention as every model here uses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of ``q (B, N, heads * d)`` to ``k, v (B, M, heads * d)`` -> ``(B, N, heads * d)``.

    On a CPU it runs in fp32: the bf16 backward of torch's CPU kernel took five times as long
    (192 x 64 tokens, six heads of 32, one core with AMX), more than bf16 saves elsewhere.
    """
    dtype = q.dtype
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if q.device.type == "cpu" and dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(dtype)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(-2)
