"""Pictures with depth in class folders or shards, as G3DR reads them.

``ROOT/<class>/<stem>.jpg`` (or png, webp) beside ``<stem>_depth.png``, 16 bits, 0 near. Classes are
numbered in the order of their names. Shards of the same pictures: see ``rgbd_shards.py``.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
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


class File(NamedTuple):
    """The contents of a picture's file, and what it is called in messages."""

    data: bytes
    label: str
    ending: str  # "jpg"


class RGBDSet(ABC):
    """A set of pictures with depth, read when asked for; to be had from `open_rgbd`.

    May be pickled for worker processes, which find everything at the same path.
    """

    def __init__(self, root: Path, classes: Sequence[str], names: Sequence[str]) -> None:
        self.root = root
        self.classes = tuple(classes)
        self.names = list(names)
        """``class/stem``."""

    @property
    @abstractmethod
    def files(self) -> Sequence[tuple[Path, int]]:
        """The files that the pictures lie in and their classes' numbers, in the order of names."""

    @abstractmethod
    def stored(self, index: int) -> tuple[File, File]:
        """A picture and its depth as they are stored.

        Raises:
            IndexError: there is no such picture.
            RGBDError: missing, or what they lie in is damaged.
        """

    @abstractmethod
    def class_of(self, index: int) -> int:
        """The number of a picture's class."""

    def __len__(self) -> int:
        return len(self.names)

    def label(self, name: str) -> int:
        """The number of a class.

        Raises:
            RGBDError: there is no such class; the message lists the nearest.
        """
        return class_number(self.classes, name)

    def sample(self, index: int) -> RGBD:
        """One picture with its depth.

        Raises:
            IndexError: there is no such picture.
            RGBDError: missing, damaged, of different sizes, or a depth that says nothing.
        """
        image, depth = decoded(*self.stored(index))
        return RGBD(image, depth, self.class_of(index), self.names[index])


class RGBDFolder(RGBDSet):
    """Pictures with depth in class folders, or in one folder (a single class).

    Raises:
        RGBDError: no folder, or no picture with depth in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise RGBDError(
                f"{root} is no folder; give one with <class>/<stem>.jpg and <stem>{DEPTH}, or with "
                "shards of them (fastrecon data pack)"
            )
        folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        listed = {folder: _pictures(folder) for folder in sorted(folders, key=lambda p: p.name)}
        if not any(pictures for pictures, _ in listed.values()):
            listed = {root: _pictures(root)}
        kept = [(folder, pictures) for folder, (pictures, _) in listed.items() if pictures]
        if not kept:
            raise RGBDError(
                f"{root} holds no picture with depth; a picture <class>/<stem>.jpg needs its "
                f"<stem>{DEPTH} beside it (fastrecon data depth makes them)"
            )
        one = kept[0][0] == root
        names = [
            path.stem if one else f"{folder.name}/{path.stem}"
            for folder, pictures in kept
            for path in pictures
        ]
        super().__init__(root, [Path(os.path.abspath(folder)).name for folder, _ in kept], names)
        self._files = tuple((path, k) for k, (_, pictures) in enumerate(kept) for path in pictures)
        self.without_depth = sum(alone for _, alone in listed.values())
        """Pictures that are passed over as they have none."""

    @property
    def files(self) -> Sequence[tuple[Path, int]]:
        """Pictures and their classes' numbers, in order of their names."""
        return self._files

    def stored(self, index: int) -> tuple[File, File]:
        """See `RGBDSet`."""
        path = self._files[index][0]
        depth = path.with_name(path.stem + DEPTH)
        return _read(path, "copy it again"), _read(depth, "make it again")

    def class_of(self, index: int) -> int:
        """See `RGBDSet`."""
        return self._files[index][1]


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
    """The set in a folder of class folders, in one folder of pictures (a single class), or in
    shards as `fastrecon data pack` writes them: a folder of them or one tar file.

    Raises:
        RGBDError: nothing there, no picture with depth in it, or a shard is damaged.
    """
    from .rgbd_shards import RGBDShards, is_packed  # which builds on this module

    root = Path(path)
    return RGBDShards(root) if is_packed(root) else RGBDFolder(root)


def _pictures(folder: Path) -> tuple[list[Path], int]:
    """Pictures of a folder that have depth, and how many have none."""
    files = {p.name: p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file()}
    found = [p for name, p in files.items() if not name.endswith(DEPTH)]
    kept = sorted((p for p in found if p.stem + DEPTH in files), key=lambda p: p.name)
    return kept, len(found) - len(kept)


def decoded(picture: File, depth: File) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) and its depth (1, H, W), both in [0, 1].

    Raises:
        RGBDError: damaged, of different sizes, or a depth that says nothing.
    """
    colours, values = _colours(picture), decode_depth(depth)
    if colours.shape[1:] != values.shape[1:]:
        raise RGBDError(
            f"{picture.label} is {colours.shape[2]} x {colours.shape[1]} but its depth "
            f"{values.shape[2]} x {values.shape[1]}; make the depth again, at the picture's size"
        )
    return colours, values


def read_depth(path: Path) -> Tensor:
    """A 16-bit depth picture as (1, H, W) in [0, 1].

    Raises:
        RGBDError: missing, damaged, 8 bits, in colour, or the same everywhere.
    """
    return decode_depth(_read(path, "make it again"))


def decode_depth(file: File) -> Tensor:
    """As `read_depth`, from a file's contents."""
    try:
        with Image.open(io.BytesIO(file.data)) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except UNREADABLE as error:
        raise _damaged(file.label, error, "make it again") from error
    if not mode.startswith("I") or values.ndim != 2:
        raise RGBDError(
            f"{file.label} must be 16-bit grey, got mode {mode}: 8 bits are too coarse for "
            "geometry; make it again (fastrecon data depth)"
        )
    if values.min() == values.max():
        raise RGBDError(
            f"{file.label} is {values.min()} everywhere, which is no depth; make it again"
        )
    return torch.from_numpy((values.astype(np.float32) / FULL).clip(0.0, 1.0))[None]


def _colours(file: File) -> Tensor:
    try:
        with Image.open(io.BytesIO(file.data)) as picture:
            values = np.asarray(picture.convert("RGB"), np.float32) / 255.0
    except UNREADABLE as error:
        raise _damaged(file.label, error, "copy it again") from error
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def _read(path: Path, again: str) -> File:
    try:
        return File(path.read_bytes(), str(path), path.suffix.lower()[1:])
    except OSError as error:
        raise _damaged(str(path), error, again) from error


def _damaged(label: str, error: Exception, again: str) -> RGBDError:
    why = error
    if isinstance(error, OSError):  # without the name, or the address of a buffer
        why = "no picture" if isinstance(error, UnidentifiedImageError) else error.strerror or error
    return RGBDError(f"{label} is missing or damaged ({why}); {again}")


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
