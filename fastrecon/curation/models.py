"""Instances and depth from networks, through transformers' pipelines.

They leave the very files that a user may bring: ``instances/*.json`` in COCO's layout and
``depth/*.npy``. What is there is not computed again, and serves other runs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .coco import CurationError, coco_masks
from .crops import write_whole

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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CurationError(
            f"cannot load {model} ({reason}); name a folder that has it, or pass {INSTEAD[task]}"
        ) from error


def segment(
    images: Path, names: Sequence[str], out: Path, pipe: Pipeline, min_score: float
) -> dict[str, str]:
    """Write ``out/<name>.json`` for every picture; returns what is wrong with which.

    Args:
        pipe: image segmentation; a call with a picture gives dicts of mask, label and score.
        min_score: detections below it are left out.
    """
    unreadable = {}
    for name, picture in _missing(images, names, out, ".json", "segment", unreadable):
        found = pipe(picture, subtask="instance", threshold=min_score)
        write_whole(_target(out, name, ".json"), json.dumps(_coco(name, picture, found)).encode())
    return unreadable


def estimate_depth(images: Path, names: Sequence[str], out: Path, pipe: Pipeline) -> dict[str, str]:
    """Write ``out/<name>.npy``, the network's own values, for every picture.

    Args:
        pipe: depth estimation; a call with a picture gives a dict with ``predicted_depth``.
    """
    unreadable = {}
    for name, picture in _missing(images, names, out, ".npy", "depth", unreadable):
        depth = np.asarray(pipe(picture)["predicted_depth"], np.float32).squeeze()
        file = io.BytesIO()
        np.save(file, depth)
        write_whole(_target(out, name, ".npy"), file.getvalue())
    return unreadable


def _missing(
    images: Path,
    names: Sequence[str],
    out: Path,
    ending: str,
    title: str,
    unreadable: dict[str, str],
) -> Iterator[tuple[str, Image.Image]]:
    """Pictures without a result; those that cannot be read are added to ``unreadable``."""
    for name in tqdm(names, desc=title, unit="picture"):
        if _target(out, name, ending).exists():
            continue
        try:
            with Image.open(images / name) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            unreadable[name] = f"{images / name} is damaged or no picture ({error})"
            continue
        yield name, upright


def _target(out: Path, name: str, ending: str) -> Path:
    return out / Path(name).with_suffix(ending)


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
