"""Pictures with depth in class folders, as G3DR reads them.

``ROOT/<class>/<stem>.jpg`` (or png, webp) beside ``<stem>_depth.png``, 16 bits, 0 near. Classes are
numbered in the order of their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config.g3dr import G3DRConfig
from .choice import drawn, parted

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
DEPTH = "_depth.png"
FULL = 65536
"""What the values of depth pictures are divided by, as published."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
TRIES = 8
"""Samples in a row that may be unusable before a run gives up."""
HELD_OUT_SHARE = 0.1
"""Most of a set that validation takes away from training."""
_STREAM = 5  # of random numbers


class RGBDError(ValueError):
    """A set or sample that cannot be used; the message names the file and says what to do."""


class RGBD(NamedTuple):
    """One picture with depth."""

    image: Tensor  # (3, H, W) in [0, 1]
    depth: Tensor  # (1, H, W) in [0, 1], 0 near
    label: int
    name: str


@dataclass
class RGBDBatch:
    """B pictures with depth."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    depth: Tensor  # (B, 1, S, S) in [0, 1], 0 near
    labels: Tensor  # (B,) int64

    def to(self, device: torch.device | str) -> RGBDBatch:
        """The same batch on another device."""
        return RGBDBatch(self.images.to(device), self.depth.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RGBDSet:
    """A set of pictures with depth, read when asked for."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]
    """Pictures and their classes' numbers, in order of their names."""

    @property
    def names(self) -> list[str]:
        """``class/stem``."""
        return [str(path.relative_to(self.root).with_suffix("")) for path, _ in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def label(self, name: str) -> int:
        """The number of a class.

        Raises:
            RGBDError: there is no such class; the message lists the nearest.
        """
        return class_number(self.classes, name)

    def sample(self, index: int) -> RGBD:
        """One picture with its depth.

        Raises:
            RGBDError: missing, damaged, of different sizes, or a depth that says nothing.
        """
        path, label = self.files[index]
        image = _colours(path)
        depth = read_depth(path.with_name(path.stem + DEPTH))
        if image.shape[1:] != depth.shape[1:]:
            raise RGBDError(
                f"{path} is {image.shape[2]} x {image.shape[1]} but its depth "
                f"{depth.shape[2]} x {depth.shape[1]}; make the depth again, at the picture's size"
            )
        return RGBD(image, depth, label, str(path.relative_to(self.root).with_suffix("")))


def class_number(classes: tuple[str, ...], name: str) -> int:
    """Where a class stands among ``classes``.

    Raises:
        RGBDError: nowhere; the message lists the nearest names.
    """
    import difflib

    if name in classes:
        return classes.index(name)
    near = difflib.get_close_matches(name, classes, 3, 0.4) or list(classes[:5])
    raise RGBDError(f"there is no class {name!r}; the nearest of {len(classes)}: {', '.join(near)}")


@lru_cache(maxsize=4)
def open_rgbd(path: str) -> RGBDSet:
    """The set in a folder of class folders, or in one folder of pictures (a single class).

    Raises:
        RGBDError: no folder, or no picture with depth in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise RGBDError(f"{root} is no folder; give one with <class>/<stem>.jpg and <stem>{DEPTH}")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    kept = [(folder, _pictures(folder)) for folder in folders]
    kept = [(folder, pictures) for folder, pictures in kept if pictures]
    if not kept and (pictures := _pictures(root)):
        kept = [(root, pictures)]
    if not kept:
        raise RGBDError(
            f"{root} holds no picture with depth; a picture <class>/<stem>.jpg needs its "
            f"<stem>{DEPTH} beside it (fastrecon data depth makes them)"
        )
    classes = tuple(folder.name for folder, _ in kept)
    files = tuple((path, k) for k, (_, pictures) in enumerate(kept) for path in pictures)
    return RGBDSet(root, classes, files)


def _pictures(folder: Path) -> list[Path]:
    """Pictures of a folder that have depth."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    return sorted(
        p for p in found if not p.name.endswith(DEPTH) and p.with_name(p.stem + DEPTH).exists()
    )


def read_depth(path: Path) -> Tensor:
    """A 16-bit depth picture as (1, H, W) in [0, 1].

    Raises:
        RGBDError: missing, damaged, 8 bits, in colour, or the same everywhere.
    """
    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except UNREADABLE as error:
        raise RGBDError(f"{path} is missing or damaged ({error}); make it again") from error
    if not mode.startswith("I") or values.ndim != 2:
        raise RGBDError(
            f"{path} must be 16-bit grey, got mode {mode}: 8 bits are too coarse for geometry; "
            "make it again (fastrecon data depth)"
        )
    if values.min() == values.max():
        raise RGBDError(f"{path} is {values.min()} everywhere, which is no depth; make it again")
    return torch.from_numpy((values.astype(np.float32) / FULL).clip(0.0, 1.0))[None]


def _colours(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture.convert("RGB"), np.float32) / 255.0
    except UNREADABLE as error:
        raise RGBDError(f"{path} is missing or damaged ({error}); copy it again") from error
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def squared(sample: RGBD, size: int) -> tuple[Tensor, Tensor]:
    """Picture and depth of a sample, its middle square, (3, size, size) and (1, size, size)."""
    height, width = sample.image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    both = torch.cat([sample.image, sample.depth])[:, top : top + side, left : left + side]
    resized = F.interpolate(
        both[None], (size, size), mode="bilinear", align_corners=False, antialias=True
    )[0].clamp(0.0, 1.0)
    return resized[:3], resized[3:]


def split(cfg: G3DRConfig, samples: RGBDSet) -> tuple[list[int], list[int]]:
    """Samples for validation and for training; the same in every run of a seed."""
    if len(samples) < 2:
        raise RGBDError(
            f"{samples.root} holds {len(samples)} picture; training needs at least two, one of "
            "them for validation"
        )
    order = parted(cfg.data.seed, len(samples), 1.0)
    count = max(1, min(cfg.run.validation_objects, int(HELD_OUT_SHARE * len(samples))))
    return order[:count], order[count:]


def rgbd_batch(cfg: G3DRConfig, step: int) -> RGBDBatch:
    """The pictures of a step out of ``cfg.data.path``: a function of ``(cfg, step)``.

    They come in shuffled epochs, mirrored with probability ``cfg.data.flip``. One that cannot be
    used is reported and replaced by another.

    Raises:
        RGBDError: the set cannot be read, or holds no usable pictures.
    """
    samples = open_rgbd(cfg.data.path)
    training = split(cfg, samples)[1]
    count = cfg.optim.batch_size
    rng = np.random.default_rng([cfg.data.seed, _STREAM, step])
    flips = rng.random(count) < cfg.data.flip
    images, depths, labels = [], [], []
    for place, flip in zip(
        drawn(cfg.data.seed, step * count, count, len(training)), flips, strict=True
    ):
        sample = _usable(samples, training, place)
        image, depth = squared(sample, cfg.model.size)
        images.append(image.flip(-1) if flip else image)
        depths.append(depth.flip(-1) if flip else depth)
        labels.append(sample.label)
    return RGBDBatch(torch.stack(images), torch.stack(depths), torch.tensor(labels))


def _usable(samples: RGBDSet, chosen: list[int], place: int) -> RGBD:
    """The sample at a place among the chosen ones, or the next that can be used."""
    import warnings

    reason: Exception | None = None
    tries = min(TRIES, len(chosen))
    for ahead in range(tries):
        try:
            return samples.sample(chosen[(place + ahead) % len(chosen)])
        except RGBDError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            reason = error
    raise RGBDError(f"no usable picture among {tries} in a row; the last: {reason}")
