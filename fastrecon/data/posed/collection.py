"""What a set of posed pictures is, wherever it comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ...cameras import orbit_c2w
from ..camera_files import Cameras, CollectionError
from ..picture_files import Pixels, reduced

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class PosedViews:
    """V views of one object; the principal point is the centre of every (square) picture."""

    name: str
    rgba: Tensor  # (V, 4, H, W) float32, straight alpha, in [0, 1]
    c2w: Tensor  # (V, 4, 4) float64, OpenGL; the world is the files' own
    fov_deg: Tensor  # (V,) float64, vertical

    def relative_to(self, view: int, distance: float) -> PosedViews:
        """The views in a world in which one of them is the canonical camera.

        As in Real3D (and LRM): the world turns and shifts so that the view's camera looks at the
        origin as `fastrecon.cameras` has it, from as far away as it was from the old origin; then
        everything is scaled so that this is ``distance``. Where the camera did not look at the old
        origin, the new one lies on its axis instead.

        Args:
            view: which one; it becomes the first, the others keep their order.
            distance: of its camera from the origin afterwards, scene units.

        Raises:
            ValueError: the view does not exist, or ``distance`` is not positive.
            CollectionError: the view's camera stands at the origin, so that there is no scale.
        """
        count = len(self.c2w)
        if not 0 <= view < count:
            raise ValueError(f"view must be from 0 to {count - 1}, got {view}")
        if not 0 < distance < math.inf:
            raise ValueError(f"distance must be positive, got {distance}")
        order = [view, *(k for k in range(count) if k != view)]
        c2w = self.c2w[order]
        far = float(c2w[0, :3, 3].norm())
        if not far > 1e-9:
            raise CollectionError(
                f"view {view} of {self.name} stands at the origin, where the object should be; "
                "choose another view"
            )
        canonical = orbit_c2w(0.0, 0.0, torch.tensor(far, dtype=torch.float64))
        moved = canonical @ torch.linalg.inv(c2w[0]) @ c2w
        moved[:, :3, 3] *= distance / far
        moved[0] = orbit_c2w(0.0, 0.0, torch.tensor(distance, dtype=torch.float64))
        return PosedViews(self.name, self.rgba[order], moved, self.fov_deg[order])


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, and the PNG file that it is, if it is one unchanged."""

    pixels: Pixels
    file: bytes | None = None


class Kept(Generic[Value]):
    """The values of the indices used last; not part of a pickle."""

    def __init__(self, count: int = 64) -> None:
        self._count = count
        self._values: dict[int, Value] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._count,)

    def get(self, index: int) -> Value | None:
        """The value, if it is still there."""
        return self._values.get(index)

    def put(self, index: int, value: Value) -> Value:
        """Keep and return a value."""
        self._values[index] = value
        while len(self._values) > self._count:
            self._values.pop(next(iter(self._values)), None)
        return value


class Collection(ABC):
    """Objects with posed pictures, read when asked for; to be had from `open_collection`.

    May be pickled for worker processes, which find everything at the same path.
    """

    layout: str

    def __init__(self, path: Path, names: Sequence[str], size: int = 0) -> None:
        if size < 0:
            raise ValueError(f"size must be at least 0 (as stored), got {size}")
        self.path = path
        self.names = list(names)
        self.size = size
        self._known: Kept[Cameras] = Kept()

    def __len__(self) -> int:
        return len(self.names)

    def cameras(self, index: int) -> Cameras:
        """An object's cameras, without its pictures.

        Raises:
            CollectionError: a file is missing or damaged; the message names it.
        """
        index = range(len(self.names))[index]
        return self._known.get(index) or self._known.put(index, self._cameras(index))

    def n_views(self, index: int) -> int:
        """How many views an object has, at least one.

        Raises:
            CollectionError: as `cameras`.
        """
        return len(self.cameras(index).names)

    def input_view(self, index: int) -> int:
        """The view to reconstruct an object from: by section 6's protocol, or else the first.

        Raises:
            CollectionError: as `cameras`.
        """
        return self.cameras(index).input_view

    def views(self, index: int, which: Sequence[int] | None = None) -> PosedViews:
        """An object's views, all of them or some in a given order; the others are not decoded.

        Raises:
            IndexError: there is no such object or view.
            CollectionError: a file is missing or damaged, or pictures differ in size.
        """
        index = range(len(self.names))[index]
        cameras = self.cameras(index)
        count = len(cameras.names)
        chosen = list(range(count) if which is None else (range(count)[k] for k in which))
        if not chosen:
            raise ValueError("which must name at least one view")
        pictures = {k: self.picture(index, k).pixels for k in dict.fromkeys(chosen)}
        side = len(pictures[chosen[0]])
        rgba = torch.empty(len(chosen), 4, side, side)
        for slot, k in enumerate(chosen):
            pixels = pictures[k]
            if pixels.shape != (side, side, 4):
                height, width = pixels.shape[:2]
                raise CollectionError(
                    f"view {cameras.names[k]} of {self.names[index]} in {self.path} is {width} x "
                    f"{height} px, others are {side} x {side}; all must be squares of one size"
                )
            rgba[slot] = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return PosedViews(
            self.names[index],
            rgba.div_(255),
            torch.from_numpy(cameras.c2w[chosen]),
            torch.from_numpy(cameras.fov_deg[chosen]),
        )

    def picture(self, index: int, view: int) -> Picture:
        """One picture, 8 bits, reduced to ``size``.

        Raises:
            CollectionError: missing, damaged, or without alpha.
        """
        found = self._picture(index, view)
        small = reduced(found.pixels, self.size)
        return found if small is found.pixels else Picture(small)

    @abstractmethod
    def _cameras(self, index: int) -> Cameras:
        """The cameras of an object, from its files; at least one."""

    @abstractmethod
    def _picture(self, index: int, view: int) -> Picture:
        """A picture as it is stored."""
