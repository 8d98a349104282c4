"""The few array functions that distance fields need, for numpy and for torch alike.

On a processor most arrays are small, and numpy's functions return several times sooner than
torch's; on a GPU torch is needed. Formulas are written once, over ``maths(x)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

Array = Any
"""A float32 numpy array or torch tensor; the two are never mixed."""


class Maths(NamedTuple):
    """Functions of arrays of one library."""

    sqrt: Callable[[Array], Array]
    sin: Callable[[Array], Array]
    cos: Callable[[Array], Array]
    atan2: Callable[[Array, Array], Array]
    floor: Callable[[Array], Array]
    nearest: Callable[[Array], Array]
    """To the nearest whole number."""
    maximum: Callable[[Array, Array], Array]
    minimum: Callable[[Array, Array], Array]
    where: Callable[[Array, Array, Array], Array]
    positive: Callable[[Array], Array]
    """max(x, 0)"""
    negative: Callable[[Array], Array]
    """min(x, 0)"""


_NUMPY = Maths(
    np.sqrt,
    np.sin,
    np.cos,
    np.arctan2,
    np.floor,
    np.rint,
    np.maximum,
    np.minimum,
    np.where,
    lambda x: np.maximum(x, 0.0),
    lambda x: np.minimum(x, 0.0),
)
_TORCH = Maths(
    torch.sqrt,
    torch.sin,
    torch.cos,
    torch.atan2,
    torch.floor,
    torch.round,
    torch.maximum,
    torch.minimum,
    torch.where,
    lambda x: x.clamp(min=0.0),
    lambda x: x.clamp(max=0.0),
)


def maths(x: Array) -> Maths:
    """The functions for arrays like x."""
    return _NUMPY if isinstance(x, np.ndarray) else _TORCH


def single(x: Array) -> torch.Tensor:
    """A numpy array as a tensor in float32."""
    return torch.from_numpy(x.astype(np.float32))
