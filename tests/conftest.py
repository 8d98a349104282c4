"""Shared by all tests: Triton's interpreter where there is no GPU, and poisoned buffers."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():  # must be set before triton is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("FASTRECON_TUNE", "0")  # what someone measured on this GPU is not tested

import pytest


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run: the GPU, or the CPU under Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def poison_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `torch.empty` gives with NaN, so that an element nobody wrote is seen."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*args, _original=original, **kwargs):
            tensor = _original(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.dtype.is_floating_point else tensor

        monkeypatch.setattr(torch, name, poisoned)
