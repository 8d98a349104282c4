"""Weights of other people's networks: read without running anything, checked tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import CheckpointError
from ..interop.checkpoints import read_weights

LISTED = 3
"""How many names an error lists before it only counts."""


class WeightsError(ValueError):
    """Weights that are missing, damaged or another network's; the message says what to do."""


def read_tensors(path: Path, advice: str) -> dict[str, Tensor]:
    """Named tensors of a safetensors file or a pickled state dict (``weights_only=True``).

    Also under "state_dict", and with a leading "module.". ``advice`` ends every error.

    Raises:
        WeightsError: no such file, damaged, or not a dictionary of tensors.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights. {advice}")
    try:
        return read_weights(path)[0]
    except CheckpointError as error:
        raise WeightsError(f"{error}. {advice}") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}). {advice}") from error


def take(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str, advice: str
) -> dict[str, Tensor]:
    """Copies in fp32 of the tensors named in ``shapes``; those beyond them are left alone.

    Args:
        what: the file and the network it should hold, the error's subject.
        advice: ends every error.

    Raises:
        WeightsError: one is missing, has another shape, is no float, or is not finite throughout.
    """
    missing = [name for name in shapes if name not in tensors]
    there = [name for name in shapes if name in tensors]
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(shapes[name])}"
        for name in there
        if tensors[name].shape != shapes[name]
    ]
    unreal = [name for name in there if not tensors[name].is_floating_point()]
    faults = {"missing": missing, "of another shape": misshapen, "not floating point": unreal}
    if not any(faults.values()):
        faults["not finite"] = [n for n in there if not torch.isfinite(tensors[n]).all()]
    found = "; ".join(_listed(title, names) for title, names in faults.items() if names)
    if found:
        raise WeightsError(f"{what} does not fit: {found}. {advice}")
    # copied, because a mapped file would otherwise stay open as long as the network lives
    return {name: tensors[name].to(torch.float32, copy=True).contiguous() for name in shapes}


def _listed(title: str, names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {title} ({', '.join(names[:LISTED])}{more})"
