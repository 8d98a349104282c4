"""Instances and depth from networks, through transformers' pipelines."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from .coco import CurationError, coco_masks

INSTEAD = {
    "image-segmentation": "--instances with a COCO JSON of your own",
    "depth-estimation": "--depth-maps with a folder of 16-bit PNG or .npy",
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Pipeline = Callable[..., Any]
Task = Literal["image-segmentation", "depth-estimation"]


def find_pictures(folder: Path) -> list[str]:
    """Names (below the folder, with /) of the pictures in it and its subfolders.

    Raises:
        CurationError: no such folder, or no picture in it.
    """
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    names = [name for name in names if name.lower().endswith(PICTURES)]
    if not names:
        raise CurationError(f"no picture ({' '.join(PICTURES)}) in {folder}; check the path")
    return names


def load_pipeline(task: Task, model: str, device: str) -> Pipeline:
    """A pipeline of transformers.

    Args:
        model: a hub id or a folder.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        ImportError: transformers is missing; the message names the extra.
        CurationError: the model is not there and cannot be fetched.
    """
    try:
        import torch

        from ..perceptual.libraries import import_torchvision

        with contextlib.suppress(ImportError):  # without it transformers does as well
            import_torchvision()
        from transformers import pipeline
    except ImportError as error:
        raise ImportError(
            f'running {model} needs transformers: pip install "fastrecon[curate]"; or pass '
            f"{INSTEAD[task]}"
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return pipeline(task, model=model, device=device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise CurationError(
            f"cannot load {model} ({_first_line(error)}); name a folder that has it, or pass "
            f"{INSTEAD[task]}"
        ) from error


@dataclass(frozen=True)
class Networks:
    """Which networks look at pictures."""

    segment: str = ""  # hub id or folder; "": instances are there already
    depth: str = ""
    device: str = "auto"
    batch_size: int = 1
    min_score: float = 0.3  # detections below are left out

    @property
    def any(self) -> bool:
        """Whether there is any to run."""
        return bool(self.segment or self.depth)

    def load(self) -> Loaded:
        """Raises as `load_pipeline` does."""
        return Loaded(self)


class Loaded:
    """Networks in memory."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        device = networks.device
        self._segment = self._depth = None
        if networks.segment:
            self._segment = load_pipeline("image-segmentation", networks.segment, device)
        if networks.depth:
            self._depth = load_pipeline("depth-estimation", networks.depth, device)

    def instances(self, names: Sequence[str], pictures: Sequence[Image.Image]) -> list[bytes]:
        """For every picture a COCO file with it alone."""
        options = {"subtask": "instance", "threshold": self.networks.min_score}
        found = self._ask(self._segment, pictures, options)
        files = map(_coco, names, pictures, found)
        return [json.dumps(file).encode() for file in files]

    def depths(self, pictures: Sequence[Image.Image]) -> list[bytes]:
        """For every picture a .npy file with the network's own values."""
        files = []
        for found in self._ask(self._depth, pictures, {}):
            file = io.BytesIO()
            np.save(file, np.asarray(found["predicted_depth"], np.float32).squeeze())
            files.append(file.getvalue())
        return files

    def _ask(
        self, pipe: Pipeline | None, pictures: Sequence[Image.Image], options: dict[str, Any]
    ) -> list[Any]:
        """Answers about all pictures, in their order.

        Only pictures of one size go through together: in a mixed batch the smaller ones are padded,
        and what the network says of the padding is scaled into their answers.
        """
        assert pipe is not None
        answers: list[Any] = [None] * len(pictures)
        sizes: dict[tuple[int, int], list[int]] = {}
        for k, picture in enumerate(pictures):
            sizes.setdefault(picture.size, []).append(k)
        size = self.networks.batch_size
        for places in sizes.values():
            for start in range(0, len(places), size):
                some = places[start : start + size]
                try:
                    found = pipe([pictures[k] for k in some], batch_size=len(some), **options)
                except RuntimeError as error:
                    raise CurationError(
                        f"a network failed on {len(some)} pictures of {pictures[some[0]].size} px "
                        f"({_first_line(error)}); if memory ran out, lower --batch-size"
                    ) from error
                for k, answer in zip(some, found, strict=True):
                    answers[k] = answer
        return answers


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _coco(name: str, picture: Image.Image, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One picture in COCO's layout, its masks as compressed run lengths."""
    labels = sorted({str(one["label"]) for one in found})
    annotations = []
    for k, one in enumerate(found):
        mask = np.asfortranarray(np.asarray(one["mask"]) > 0, np.uint8)
        rle = coco_masks().encode(mask)
        annotations.append(
            {
                "id": k,
                "image_id": 0,
                "category_id": labels.index(str(one["label"])),
                "score": float(1.0 if one.get("score") is None else one["score"]),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
        )
    return {
        "images": [{"id": 0, "file_name": name, "width": picture.width, "height": picture.height}],
        "annotations": annotations,
        "categories": [{"id": k, "name": label} for k, label in enumerate(labels)],
    }
