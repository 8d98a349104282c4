"""Folders of the RGB-D models: ``config.json`` + ``model.safetensors``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastrecon.checkpoint import CheckpointError
from fastrecon.interop.checkpoints import (
    CONFIG_JSON,
    WEIGHTS,
    check_state_dict,
    locate,
    read_config_dict,
    read_json,
    read_weights,
)
from fastrecon.interop.pretrained import build_skeleton

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


def read_folder(
    source: str | os.PathLike[str], template: C, kind: str, *, revision: str | None = None
) -> tuple[C, dict[str, Tensor]]:
    """Configuration and tensors of a folder, a file in it, or a hub id.

    Raises:
        CheckpointError: nothing there, damaged, or another kind of model.
        ImportError: a hub id without huggingface_hub installed.
    """
    folder, named = locate(source, revision=revision)
    content = read_json(folder / CONFIG_JSON)
    config = read_config_dict(content, template, kind, where=str(folder / CONFIG_JSON))
    weights = WEIGHTS if named in (None, CONFIG_JSON) else named
    return config, read_weights(folder / weights)[0]


def filled(build: Callable[[], M], layers: int, tensors: Mapping[str, Tensor]) -> M:
    """The model that ``build`` makes with fp32 copies of ``tensors``, in eval mode.

    It is first made without values, so that a hostile file costs nothing. What is not stored
    (position tables, masks) is computed, so the model that is filled is a real one.

    Args:
        layers: at least this many tensors it will have.

    Raises:
        CheckpointError: names, shapes or values are not a model's.
    """
    check_state_dict(tensors, build_skeleton(build, layers, len(tensors)).state_dict())
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{len(bad)} tensors are not finite, the first is {bad[0]}; take an earlier checkpoint"
        )
    with torch.random.fork_rng(devices=[]):
        model = build()
    model.load_state_dict({name: t.float() for name, t in tensors.items()})
    return model.eval()
