"""What every model of this package does with its tensors: adopt those of a file, write its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastrecon.checkpoint import CheckpointError, save_tensors, write_atomic

from .checkpoints import CONFIG_JSON, WEIGHTS, check_state_dict

M = TypeVar("M", bound=nn.Module)


def build_skeleton(build: Callable[[], M], layers: int, n_tensors: int) -> M:
    """The model of a file with ``n_tensors`` tensors, without values (on "meta").

    Args:
        build: makes the model.
        layers: at least this many tensors it will have.
        n_tensors: those of the file.

    Raises:
        CheckpointError: the configuration describes no model, or far too many layers for the file.
    """
    if layers > n_tensors:  # before a damaged configuration builds a million layers
        raise CheckpointError(
            f"the configuration has {layers} layers but the file only {n_tensors} tensors; "
            "check that they belong together"
        )
    try:
        with torch.device("meta"):  # no time spent on initial values that are replaced at once
            return build()
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"the configuration describes no model: {error}") from error


def adopt(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a skeleton fp32 copies of ``tensors``, matched by name and shape.

    Raises:
        CheckpointError: names or shapes differ from the model's.
    """
    check_state_dict(tensors, model.state_dict())
    # Copied: a tensor read through a memory map must not follow what happens to its file.
    owned = {name: t.to("cpu", torch.float32, copy=True) for name, t in tensors.items()}
    model.load_state_dict(owned, assign=True)


def write_pretrained(
    folder: str | os.PathLike[str],
    content: Mapping[str, Any],
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``content`` as ``config.json`` and ``state`` as ``model.safetensors``, atomically each.

    Raises:
        ValueError: neither ``torch.float32`` nor ``torch.float16``, or weights that are not finite
            in it.
        CheckpointError: the folder cannot be written.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"dtype must be torch.float32 or torch.float16, got {dtype}")
    tensors = {name: t.detach().to("cpu", dtype) for name, t in state.items()}
    bad = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise ValueError(
            f"{len(bad)} parameters are not finite in {dtype}, the first is {bad[0]}; "
            "save an earlier model, or in float32 if only float16 overflows"
        )
    folder = os.fspath(folder)
    save_tensors(os.path.join(folder, WEIGHTS), tensors)
    text = json.dumps(content, indent=2) + "\n"
    write_atomic(os.path.join(folder, CONFIG_JSON), text.encode())
