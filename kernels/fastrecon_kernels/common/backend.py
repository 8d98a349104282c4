"""Which implementation serves a call: the Triton kernels or the plain PyTorch reference."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "triton", "reference")
FP_FUSION: dict[str, Any] = {"enable_fp_fusion": True}
"""Launch option of every kernel: a product and a sum become one multiply-add. Triton 3.6 to 3.9 do
so unasked, 3.9 with a warning that 3.10 will not."""

# Looked for once, here: torch.compile cannot trace the search.
_FOUND = importlib.util.find_spec("triton") is not None


def triton_installed() -> bool:
    """Whether Triton can be imported (it has no wheels for some platforms)."""
    return _FOUND


def interpreting() -> bool:
    """Whether Triton runs in its interpreter, which serves CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def double_unsupported(*tensors: Tensor | None) -> str | None:
    """The reason for `use_triton` if any of the inputs is fp64, which no kernel computes in."""
    if any(t is not None and t.dtype == torch.float64 for t in tensors):
        return "the kernels compute in fp32 and an input is float64; pass .float() inputs"
    return None


def use_triton(backend: str, device: torch.device, unsupported: str | None = None) -> bool:
    """Choose the implementation of one call.

    Args:
        backend: "auto", "triton" or "reference". "auto" takes Triton for CUDA tensors that it
            supports; an explicit "triton" that cannot serve raises.
        device: device of the inputs.
        unsupported: why the kernels cannot serve these inputs, or None if they can.

    Raises:
        ValueError: for an unknown backend or inputs that the kernels do not support.
        RuntimeError: if Triton is missing or cannot run on this device.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"backend must be one of {', '.join(map(repr, BACKENDS))}; got {backend!r}"
        )
    if backend == "reference":
        return False
    if backend == "auto":
        return device.type == "cuda" and triton_installed() and unsupported is None
    if not triton_installed():
        raise RuntimeError(
            "backend='triton' needs the triton package; `pip install triton`, or use "
            "backend='reference'"
        )
    if device.type != "cuda" and not interpreting():
        raise RuntimeError(
            f"backend='triton' needs CUDA tensors, got {device}; move the inputs to a GPU, use "
            "backend='auto', or set TRITON_INTERPRET=1 before Python starts to run the kernels in "
            "Triton's (slow) interpreter"
        )
    if unsupported is not None:
        raise ValueError(f"backend='triton' cannot serve this call: {unsupported}")
    return True
