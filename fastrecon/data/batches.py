"""What training and validation are given: pictures, rays and the answers to them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass
class Batch:
    """B objects: the picture the model reads, and R rays with known answers in each of V views.

    With a ``picture_size`` the rays of a view are those of a whole picture, row by row, and the
    answers are anti-aliased; otherwise they are anywhere, and the answers are point samples.
    """

    images: Tensor  # (B, 3, H, W) in [0, 1], object on grey 0.5, anti-aliased
    rays_o: Tensor  # (B, V, R, 3); view 0 is the input view
    rays_d: Tensor  # (B, V, R, 3) unit length
    rgb: Tensor  # (B, V, R, 3) in [0, 1], object on white
    mask: Tensor  # (B, V, R) 1 on the object, else 0
    depth: Tensor  # (B, V, R) distance along the ray, 0 on a miss
    picture_size: int = 0
    cameras: Tensor | None = None  # (B, 16) the input cameras, for models that are told

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return Batch(**values)


class ValidationSet(NamedTuple):
    """Objects that training never sees, from views spread like the training views."""

    images: Tensor  # (n, 3, S, S) the model's input, object on grey
    c2w: Tensor  # (n, V, 4, 4)
    rgb: Tensor  # (n, V, 3, size, size) on white, anti-aliased
    angles: Tensor  # (n, V) degrees between the view's direction and the input view's
    fov_deg: Tensor  # (n, V)
    cameras: Tensor | None = None  # (n, 16) the input cameras, for models that are told


@dataclass
class TrainingBatch:
    """All that one step learns from."""

    known: Batch
    photos: Tensor | None = None
    """``(P, 4, S, S)`` single pictures, objects centred, colours times alpha; None: none."""

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        photos = None if self.photos is None else self.photos.to(device)
        return TrainingBatch(self.known.to(device), photos)
