"""Depth for folders of pictures: what ``fastrecon data depth`` does.

Beside every ``<class>/<stem>.jpg`` goes ``<stem>_depth.png``, 16 bits, 0 near, the picture's own
size, as `data.rgbd` reads it. Every file appears whole or not at all; pictures that have depth
already keep it, so the same command again does what is missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ..checkpoint import write_atomic
from ..run_folder import only_run
from ..signals import StopRequest
from .rgbd import DEPTH, ENDINGS, FULL, UNREADABLE

PERCENTILES = (1.0, 99.0)
"""Of a picture's values: what lies beyond them is as near, or as far, as they are."""
AHEAD = 4
"""Batches of pictures that are decoded together, so that those of one size find each other."""
RECORD, SETTINGS, FAILED = ".depth", "settings.json", "failed.json"
"""Folder in the set's, and its files: what made the depth, and which pictures have none."""


class DepthError(ValueError):
    """Depth that cannot be made as asked; the message says why and what to do."""


@dataclass(frozen=True)
class DepthOptions:
    """Estimate the depth of pictures in class folders, for training from RGB-D.

    Writes <stem>_depth.png (16 bits, 0 near) beside every picture that has none. Values between
    the 1st and the 99th percentile of a picture are spread over the whole range. With --kind
    metric they are spread evenly. With --kind disparity (relative inverse depth: Depth Anything,
    MiDaS) they are taken to be 1 / distance between a nearest and a farthest distance whose ratio
    is --ratio, and those distances are spread evenly, so that planes stay planes.

    Pictures that cannot be used are named in FOLDER/.depth/failed.json with the reason, and the
    exit code is 1. The same command again continues an interrupted run.
    """

    folder: tyro.conf.Positional[Path]
    """Of class folders, FOLDER/<class>/<stem>.jpg, or of the pictures of a single class."""
    model: str = "depth-anything/Depth-Anything-V2-Small-hf"
    """A depth estimation model of transformers: a hub id or a folder."""
    kind: Literal["disparity", "metric"] = "disparity"
    """What the model's values are: larger is nearer, or distances."""
    ratio: float = 1.5
    """Farthest over nearest distance of what a picture shows, for disparity; 1.5 is that of the
    distances 4 to 6 at which G3DR's camera sees a scene."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""
    batch_size: int = 8
    """Pictures of one size that go through the network together."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        if not self.ratio > 1:
            raise ValueError(f"--ratio must exceed 1, got {self.ratio}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}")


def make_depth(options: DepthOptions) -> int:
    """Make the depth that is missing. Returns the exit code.

    0: all pictures have depth; 1: some could not be used, each is named with its reason; 128 +
    signal: stopped by SIGINT or SIGTERM, the same call continues.

    Raises:
        ValueError, ImportError: nothing can be made; the message says why and what to do.
        OSError: the folder cannot be written.
    """
    options.check()
    pictures = find_pictures(options.folder)
    record = options.folder / RECORD
    record.mkdir(exist_ok=True)
    with only_run(record, DepthError), StopRequest() as stop:
        _keep_to(record / SETTINGS, options)
        missing = [path for path in pictures if not _target(path).exists()]
        failed: dict[str, str] = {}
        if missing:
            with tqdm(total=len(missing), unit="picture", disable=None) as bar:
                for path, reason in _made(missing, options):
                    bar.update()
                    if reason:
                        name = path.relative_to(options.folder).as_posix()
                        failed[name] = reason
                        tqdm.write(f"{name}: {reason}")
                    if stop.signum is not None:
                        break
        if stop.signum is not None:
            print("stopped; finished depth is whole, the same command continues")
            return 128 + stop.signum
        write_atomic(record / FAILED, json.dumps(failed, indent=1).encode())
    made = len(missing) - len(failed)
    said = f"; see {record / FAILED}" if failed else ""
    print(
        f"{len(pictures)} pictures: {made} got depth, {len(pictures) - len(missing)} had it, "
        f"{len(failed)} cannot be used{said}"
    )
    return 1 if failed else 0


def find_pictures(folder: Path) -> list[Path]:
    """Pictures in the class folders, or in the folder itself if there are none.

    Raises:
        DepthError: no folder, no picture, or two pictures that would have one depth.
    """
    if not folder.is_dir():
        raise DepthError(f"{folder} is no folder; give one with <class>/<stem>.jpg")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [path for one in classes for path in _pictures(one)] or _pictures(folder)
    if not found:
        raise DepthError(
            f"no picture ({' '.join(ENDINGS)}) in {folder} or its class folders; check the path"
        )
    targets: dict[Path, Path] = {}
    for path in found:
        other = targets.setdefault(_target(path), path)
        if other is not path:
            raise DepthError(
                f"{other} and {path.name} would share one depth; rename or remove one of them"
            )
    return found


def depth_values(
    found: NDArray[np.floating[Any]], size: tuple[int, int], kind: str, ratio: float
) -> NDArray[np.uint16]:
    """A network's values as a depth picture of ``size`` (H, W), see `DepthOptions`.

    Raises:
        DepthError: the values say nothing: not finite, or all alike.
    """
    if found.ndim != 2 or not np.isfinite(found).all():
        raise DepthError("the network's answer is not finite")
    values = torch.from_numpy(found.astype(np.float32))[None, None]
    if values.shape[-2:] != size:
        values = F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
    low, high = np.percentile(values.numpy(), PERCENTILES)
    if not high - low > 1e-6 * max(abs(low), abs(high)):
        raise DepthError("the network sees no depth in it: its values are all alike")
    share = ((values[0, 0].double() - low) / (high - low)).clamp(0.0, 1.0)
    if kind == "disparity":
        # 1 / distance goes from 1 / ratio (far) to 1 (near), so distances from ratio to 1.
        distance = 1.0 / (1.0 / ratio + (1.0 - 1.0 / ratio) * share)
        share = (distance - 1.0) / (ratio - 1.0)
    return (share * FULL).round().clamp(0, FULL - 1).numpy().astype(np.uint16)


def _made(pictures: Sequence[Path], options: DepthOptions) -> Iterator[tuple[Path, str]]:
    """Write depth; for every picture an empty string, or why it has none."""
    network = _network(options)
    some = AHEAD * options.batch_size
    for start in range(0, len(pictures), some):
        read: dict[Path, Image.Image] = {}
        for path in pictures[start : start + some]:
            try:
                with Image.open(path) as picture:
                    read[path] = picture.convert("RGB")
            except UNREADABLE as error:
                yield path, f"missing or damaged ({error}); copy it again"
        for (path, picture), file in zip(
            read.items(), network.depths(list(read.values())), strict=True
        ):
            try:
                size = (picture.height, picture.width)
                values = np.load(io.BytesIO(file))
                depth = depth_values(values, size, options.kind, options.ratio)
            except DepthError as error:
                yield path, str(error)
                continue
            data = io.BytesIO()
            Image.fromarray(depth).save(data, "PNG")
            write_atomic(_target(path), data.getvalue())
            yield path, ""


def _network(options: DepthOptions) -> Any:
    from ..curation.coco import CurationError
    from ..curation.models import Networks

    networks = Networks(depth=options.model, device=options.device, batch_size=options.batch_size)
    try:
        return networks.load()
    except (CurationError, ImportError) as error:
        # What could be done instead is there for curation alone.
        words = re.split(r"[,;] or pass ", str(error))[0]
        raise type(error)(f"{words}; --model names another") from error


def _keep_to(path: Path, options: DepthOptions) -> None:
    """Write what depth is a function of, or refuse to mix it with other depth."""
    wanted = {"model": options.model, "kind": options.kind, "percentiles": list(PERCENTILES)}
    wanted["ratio"] = options.ratio if options.kind == "disparity" else None
    present = None
    if path.exists():
        with contextlib.suppress(OSError, ValueError):
            present = json.loads(path.read_text(encoding="utf-8"))
        if present != wanted:
            raise DepthError(
                f"{path.parents[1]} has depth that was made otherwise ({path} says {present}, "
                f"wanted {wanted}); give the same values, or delete its *{DEPTH} and {path.parent}"
            )
        return
    write_atomic(path, json.dumps(wanted, indent=1).encode())


def _target(path: Path) -> Path:
    return path.with_name(path.stem + DEPTH)


def _pictures(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    return sorted(p for p in found if not p.name.endswith(DEPTH))
