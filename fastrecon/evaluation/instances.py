"""What is judged by pictures alone: an input picture, and known views of the same object if any."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.posed import OBJECT_ALPHA, Collection, PhotoSet, PosedViews
from ..images import framed, isolate, on_background
from .cycles import WHITE, InputCamera
from .subjects import Skipped

TARGETS = {"co3d": 5, "mvimgnet": 5}
"""Target views per instance (Real3D, appendix A); others have ``MORE_TARGETS``."""
MORE_TARGETS = 10
CAPTURES = ("co3d", "mvimgnet")
"""Layouts of real captures, which are read cut to 1.6 x the object's box, and masked."""


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: the model's input, and what it looks like from V cameras, the input's first."""

    name: str
    picture: Tensor  # (4, S, S) the input, colours times alpha
    truth: Tensor  # (V, 3, H, W) on white
    c2w: Tensor  # (V, 4, 4) float32; [0] is the canonical camera
    fov_deg: Tensor  # (V,)
    fill: float
    """Side of the object's bounding square over that of the input picture."""


class InstanceSet(Protocol):
    """Instances one after the other; what turns out unusable is not given but noted."""

    key: str
    title: str
    skipped: list[Skipped]

    @property
    def description(self) -> str:
        """In a sentence."""
        ...

    @property
    def data_set(self) -> str:
        """The published data set that this is, "" if unknown."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Instance]: ...


@dataclass
class PosedSet:
    """Objects with pictures from known cameras, prepared as Real3D's evaluation does (appendix A).

    The input is the view that the collection names, poses are relative to it, and its camera stands
    at ``camera.distance``. Pictures may be cropped about their centre, every view of an object
    alike; the crop is then folded into the focal lengths: the input's becomes that of
    ``camera.fov_deg``, and the others keep their ratio to it.

    Args:
        camera: what the model takes the input picture to be made with.
        side: of the input picture, pixels.
        size: of the true pictures, pixels.
        most: instances at most; of more, a seeded choice.
        targets: target views per instance; 0: as published for the layout.
        crop: side of the crop over the square about the centre that holds the object in the input
            view; 0: pictures and fields of view as the collection gives them, which for real
            captures are cropped.
        refocus: change the focal lengths of whole pictures too, as those of cropped ones.
    """

    collection: Collection
    path: str
    camera: InputCamera
    side: int
    size: int
    most: int = 100
    targets: int = 0
    crop: float = 0.0
    seed: int = 0
    refocus: bool = False
    data_set: str = ""
    key: str = "posed"
    title: str = "Posed pictures"
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = self.collection.layout
        self.targets = self.targets or TARGETS.get(self.layout, MORE_TARGETS)

    @cached_property
    def chosen(self) -> list[int]:
        """Indices of the instances."""
        return seeded_choice(len(self.collection), self.most, self.seed)

    @property
    def description(self) -> str:
        """In a sentence."""
        total, many = len(self.collection), len(self.chosen)
        which = f"all {total}" if many == total else f"{many} of {total} (seed {self.seed})"
        first = "the set's input view, the first unless it names one"
        if self.layout in CAPTURES:
            first = "the view whose mask lies nearest the picture's centre"
        crop = "as they are"
        if self.crop:
            crop = f"cropped to {self.crop:g} x the object's square in the input view"
        elif self.layout in CAPTURES:
            crop = "masked and cropped to 1.6 x the object's square in the input view"
        return (
            f"{which} objects of {self.path} (layout {self.layout}), up to {self.targets} target "
            f"views each, spread evenly over the others; input: {first}; pictures {crop}"
        )

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Instance]:
        self.skipped.clear()
        for index in self.chosen:
            try:
                instance = self._instance(index)
            except (ValueError, OSError) as error:
                self.skipped.append(Skipped(self.collection.names[index], str(error)))
                continue
            yield instance

    def _instance(self, index: int) -> Instance:
        count = self.collection.n_views(index)
        if count < 2:
            raise ValueError(f"it has {count} views; novel views need at least two")
        first = self.collection.input_view(index)
        others = [view for view in range(count) if view != first]
        which = [first, *evenly(others, self.targets)]
        views = self.collection.views(index, which).relative_to(0, self.camera.distance)
        fov_deg = self.camera.fov_deg if self.crop or self.refocus else None
        return prepared(views, fov_deg, self.crop, self.side, self.size)


@dataclass
class PhotoPictures:
    """Single pictures with alpha, framed as the model expects; only their own view is known."""

    photos: PhotoSet
    path: str
    camera: InputCamera
    side: int
    size: int
    ratio: float
    """Share of the picture's side that the object's bounding square fills."""
    most: int = 1000
    seed: int = 0
    data_set: str = ""
    key: str = "photos"
    title: str = "Photographs"
    skipped: list[Skipped] = field(default_factory=list)

    @cached_property
    def chosen(self) -> list[int]:
        """Indices of the pictures."""
        return seeded_choice(len(self.photos), self.most, self.seed)

    @property
    def description(self) -> str:
        """In a sentence."""
        total, many = len(self.photos), len(self.chosen)
        which = f"all {total}" if many == total else f"{many} of {total} (seed {self.seed})"
        return f"{which} pictures of {self.path}; objects fill {self.ratio:.2f} of the input's side"

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Instance]:
        self.skipped.clear()
        for index in self.chosen:
            name = self.photos.names[index]
            try:
                rgba = isolate(self.photos.photo(index), name)
                if not (rgba[..., 3] > OBJECT_ALPHA).any():
                    raise ValueError("alpha shows no object; save it with its alpha")
                picture, truth = (
                    framed(rgba, self.ratio, size, OBJECT_ALPHA) for size in (self.side, self.size)
                )
            except (ValueError, OSError) as error:
                self.skipped.append(Skipped(name, str(error)))
                continue
            yield Instance(
                name=name,
                picture=picture,
                truth=on_background(truth, WHITE)[None],
                c2w=self.camera.canonical[None],
                fov_deg=torch.tensor([self.camera.fov_deg]),
                fill=self.ratio,
            )


def prepared(
    views: PosedViews, fov_deg: float | None, crop: float, side: int, size: int
) -> Instance:
    """An instance of views relative to their first.

    Args:
        fov_deg: what the first view's field of view is taken for, see `folded`; None: its own.
        crop: side of the crop about the picture's centre over the first view's object; 0: none.

    Raises:
        ValueError: the first view does not show the object.
    """
    rgba = views.rgba.float()
    half = centred_half_side(rgba[0, 3])
    width = rgba.shape[-1]
    reach = width / 2
    fov = views.fov_deg.float()
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    if crop:
        reach = max(1, round(crop * half))
        premultiplied = centre_crop(premultiplied, reach)
    if fov_deg is not None:
        fov = folded(fov, fov_deg)
    truth = on_background(resized(premultiplied, size), WHITE)
    return Instance(
        name=views.name,
        picture=resized(premultiplied[:1], side)[0],
        truth=truth,
        c2w=views.c2w.float(),
        fov_deg=fov,
        fill=box_side(rgba[0, 3]) / (2 * reach),
    )


def folded(fov_deg: Tensor, first_deg: float) -> Tensor:
    """Fields of view (V,) with the first's focal length changed to that of ``first_deg``, and the
    others' by the same factor: ``f_i = f_i / f_0 * f(first_deg)``."""
    half = (fov_deg.double().deg2rad() / 2).tan()
    tangent = torch.tensor(first_deg, dtype=torch.float64).deg2rad().div(2).tan()
    return (2 * (half / half[0] * tangent).atan()).rad2deg().float()


def centred_half_side(alpha: Tensor) -> float:
    """Half the side of the square about the picture's centre that holds all of the object.

    Raises:
        ValueError: alpha ``(H, W)`` shows no object.
    """
    rows, columns = torch.nonzero(alpha > OBJECT_ALPHA, as_tuple=True)
    if not len(rows):
        raise ValueError("its input view shows no object; check its alpha")
    height, width = alpha.shape
    ends = [(rows.min(), rows.max() + 1, height), (columns.min(), columns.max() + 1, width)]
    return max(max(n / 2 - float(low), float(high) - n / 2) for low, high, n in ends)


def box_side(alpha: Tensor) -> float:
    """Longer side of the object's bounding box in alpha ``(H, W)``, pixels."""
    rows, columns = torch.nonzero(alpha > OBJECT_ALPHA, as_tuple=True)
    return float(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1)


def centre_crop(pictures: Tensor, half: int) -> Tensor:
    """The square ``2 half`` wide about the centre of ``(V, C, H, W)``; zeros beyond the picture."""
    height, width = pictures.shape[-2:]
    top, left = height // 2 - half, width // 2 - half
    bottom, right = top + 2 * half - height, left + 2 * half - width
    return F.pad(pictures, (-left, right, -top, bottom))


def resized(pictures: Tensor, size: int) -> Tensor:
    """Pictures ``(V, C, H, W)`` at ``size`` x ``size``, bilinear, antialiased."""
    return F.interpolate(
        pictures, (size, size), mode="bilinear", align_corners=False, antialias=True
    )


def evenly(views: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the views, spread evenly, ends included where there are two or more."""
    if len(views) <= count:
        return list(views)
    places = np.round(np.linspace(0, len(views) - 1, count)).astype(int)
    return [views[k] for k in places]


def seeded_choice(total: int, most: int, seed: int) -> list[int]:
    """At most ``most`` of ``total`` indices, in order."""
    if total <= most:
        return list(range(total))
    return sorted(random.Random(f"instances/{seed}").sample(range(total), most))
