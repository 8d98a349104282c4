"""Instances from COCO's JSON: polygons, and run lengths compressed or not.

Read are one JSON file, or a folder of them that are taken together: objects with ``images``,
``annotations`` and, if there are any, ``categories``. Detectors add a ``score`` to annotations.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .filters import Instance
from .masks import Bool, Mask

FAR = 10
"""Polygons may leave the picture by this many of its sides; further is another picture's."""


class CurationError(ValueError):
    """Input that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Annotation:
    """An instance as the file has it."""

    id: int
    category: str | None
    score: float
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class Entry:
    """A picture of the file with its annotations; with a ``problem`` it cannot be used."""

    name: str  # path below the folder of pictures, with /
    size: tuple[int, int]  # (H, W)
    annotations: tuple[Annotation, ...] = ()
    problem: str = ""


def read_coco(path: Path) -> list[Entry]:
    """The pictures of a COCO file, or of all in a folder, in their order.

    What is wrong with a single picture or annotation is the ``problem`` of its entry.

    Raises:
        CurationError: no such file, broken JSON, or not COCO's layout.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise CurationError(f"{path} has no .json file; name a COCO file or a folder of them")
    entries: dict[str, Entry] = {}
    for file in files:
        for entry in _entries(file):
            if entry.name in entries:
                problem = f"{entry.name} is listed twice; keep one of the two, with all instances"
                entry = Entry(entry.name, entry.size, problem=problem)
            entries[entry.name] = entry
    return list(entries.values())


def _entries(file: Path) -> list[Entry]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise CurationError(f"{file} does not exist; check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CurationError(f"{file} is not whole JSON ({error}); write it again") from error
    if isinstance(content, list):
        raise CurationError(
            f"{file} is a list of results without their pictures; put it in an object: "
            '{"images": [...], "annotations": [the list], "categories": [...]}'
        )
    try:
        # A file without categories has objects of one kind that needs no name.
        names = {int(c["id"]): str(c["name"]) for c in content.get("categories") or []}
        images = {int(image["id"]): image for image in content["images"]}
        found: dict[int, list[Annotation]] = {key: [] for key in images}
        problems: dict[int, str] = {}
        for k, raw in enumerate(content["annotations"]):
            try:
                annotation = as_annotation(raw, k, names)
            except (KeyError, TypeError, ValueError) as error:
                problems[int(raw["image_id"])] = (
                    f"annotation {raw.get('id', k)} is damaged ({type(error).__name__}: {error})"
                )
            else:
                found.setdefault(int(raw["image_id"]), []).append(annotation)
        entries = [_entry(image, tuple(found[key])) for key, image in images.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CurationError(
            f"{file} is not laid out as COCO's: it needs images (id, file_name, width, height) and "
            f"annotations (image_id, segmentation) ({type(error).__name__}: {error})"
        ) from error
    known = {entry.name for entry in entries}
    for key, entry in zip(images, entries, strict=True):
        if key in problems and not entry.problem:
            entries[entries.index(entry)] = Entry(entry.name, entry.size, problem=problems[key])
    for key in [*found, *problems]:
        name = f"{file.name} image_id {key}"
        if key not in images and name not in known:
            count = len(found.get(key, ())) or 1
            problem = f"{count} annotations are of image_id {key}, which {file.name} does not list"
            entries.append(Entry(name, (0, 0), problem=problem))
            known.add(name)
    return entries


def as_annotation(raw: Mapping[str, Any], k: int, names: Mapping[int, str]) -> Annotation:
    """One of COCO's annotations; without a list of categories it may name its own.

    Args:
        k: its place in the list, which is its id if it has none.
        names: of the categories, by their id.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    own = str(raw.get("category", raw.get("category_name", "")))
    category = names.get(int(raw["category_id"])) if names else own
    score = raw.get("score")
    return Annotation(
        int(raw.get("id", k)),
        category,
        1.0 if score is None else float(score),
        bool(raw.get("iscrowd", 0)),
        raw["segmentation"],
    )


def _entry(image: Mapping[str, Any], annotations: tuple[Annotation, ...]) -> Entry:
    name = str(image["file_name"]).replace("\\", "/")
    size = (int(image["height"]), int(image["width"]))
    path = PurePosixPath(name)
    problem = twice(annotations)
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        problem = f"file_name {name!r} leaves the folder of pictures; make it relative to --images"
    elif min(size) < 1:
        problem = f"the file says that {name} is {size[1]} x {size[0]} px"
    return Entry(name, size, annotations, problem)


def twice(annotations: Sequence[Annotation]) -> str:
    """What is wrong if two of a picture's annotations have the same id, or ""."""
    ids = Counter(a.id for a in annotations)
    again = next((number for number, count in ids.items() if count > 1), None)
    return "" if again is None else f"annotation id {again} occurs twice; ids name the crops"


def decode(entry: Entry) -> list[Instance]:
    """The instances of a picture with their masks.

    Raises:
        CurationError: a mask is damaged or of another size; all of the picture then is in doubt,
            as masks decide about their neighbours.
    """
    return [
        Instance(a.id, a.category, a.score, a.crowd, Mask.cut(_whole(a, entry.size)))
        for a in entry.annotations
    ]


def _whole(annotation: Annotation, size: tuple[int, int]) -> Bool:
    """``(H, W)``: pixels of an annotation."""
    coco = coco_masks()
    height, width = size
    what = annotation.segmentation
    try:
        if isinstance(what, Mapping):
            if (said := tuple(int(n) for n in what["size"])) != size:
                raise CurationError(
                    f"the mask of annotation {annotation.id} is {said[-1]} x {said[0]} px, "
                    f"the picture {width} x {height}"
                )
            counts = what["counts"]
            # pycocotools leaves memory as it found it where the counts end too soon.
            runs = np.asarray(counts) if isinstance(counts, list) else _run_lengths(counts)
            if (runs < 0).any() or runs.sum() != height * width or runs.dtype.kind != "i":
                raise ValueError(f"its run lengths do not add up to {height * width} pixels")
            rle = coco.frPyObjects(what, height, width) if isinstance(counts, list) else what
            return coco.decode(rle).view(bool)
        polygons = [np.asarray(p, np.float64).ravel() for p in what]
        reach = FAR * max(size)
        if any(len(p) % 2 or not (abs(p) <= reach).all() for p in polygons):
            raise ValueError("its polygons are not pairs of pixel coordinates")
        # Fewer than three corners cover nothing.
        solid = [p.tolist() for p in polygons if len(p) >= 6]
        if not solid:
            return np.zeros(size, bool)
        return coco.decode(coco.merge(coco.frPyObjects(solid, height, width))).view(bool)
    except CurationError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise CurationError(
            f"the segmentation of annotation {annotation.id} is damaged ({error})"
        ) from error


def _run_lengths(text: str | bytes) -> np.ndarray:
    """The counts of a compressed RLE: 5 bits a character, every count less the last but one."""
    code = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
    code = code.astype(np.int64) - 48
    ends = np.flatnonzero(code & 32 == 0)
    if not len(ends) or ends[-1] != len(code) - 1 or ((code < 0) | (code > 63)).any():
        raise ValueError("its run lengths are cut short")
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > math.ceil(64 / 5) - 1:
        raise ValueError("its run lengths are too large")
    place = np.arange(len(code)) - np.repeat(starts, length)
    counts = np.add.reduceat((code & 31) << (5 * place), starts)
    counts -= np.where(code[ends] & 16, 1 << (5 * length), 0)  # the last character has the sign
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts


def coco_masks() -> Any:
    """The mask functions of pycocotools.

    Raises:
        ImportError: the message names the extra.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            'reading COCO masks needs pycocotools: pip install "fastrecon[curate]"'
        ) from error
    return mask
