"""The report: numbers for machines (JSON), tables for people (Markdown), and their conditions."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..assets import SHIPPED_MODEL
from ..interop.checkpoints import config_to_dict
from ..models.lrm import LRM
from ..models.trigen import TriGen
from .estimates import Estimate
from .geometry import TOLERANCE
from .protocol import DRAWN, SHAPED, VIEWS, Method, Metric, SetResult, ShapeSettings
from .tables import published_table, table
from .validation import NEAR_DEG

LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "trimesh")
BASELINES: tuple[Method, ...] = ("mean image", "extrusion")
WITH_SURFACE: tuple[Method, ...] = ("model", "extrusion")
VIEW_NAMES = {
    "near": f"at most {NEAR_DEG:.0f} degrees from the input view",
    "far": "farther",
    "all": "all",
}
METHOD_NAMES = {"truth": "the truth, sampled again"}
SHAPE_DIGITS = 3
BEGIN, END = "<!-- fastrecon evaluate: begin -->", "<!-- fastrecon evaluate: end -->"
"""Lines between which a report replaces what an existing file holds."""


def conditions(model: LRM | TriGen, weights: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the numbers are a function of: weights ("": the shipped ones), versions, options."""
    return {
        "weights": {
            "source": weights or "shipped",
            "parameters": sum(p.numel() for p in model.parameters()),
            "files_sha256": _file_hashes(Path(weights or SHIPPED_MODEL)),
            "tensors_sha256": tensors_hash(model),
        },
        "model": config_to_dict(model.config)["model"],
        "versions": {
            "fastrecon": _version("fastrecon"),
            "python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES},
        },
        "commit": commit(),
        "machine": {
            "system": platform.platform(),
            "device": str(next(model.parameters()).device),
            "threads": torch.get_num_threads(),
        },
        "options": settings,
    }


def tensors_hash(model: LRM | TriGen) -> str:
    """SHA-256 over names and fp32 values: the same weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def commit() -> str | None:
    """The package's git commit, with "+changes" if files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        said = [
            subprocess.run(
                ["git", "-C", str(root), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=20,
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] + ("+changes" if said[1] else "")


def summary(result: SetResult) -> dict[str, Any]:
    """A set's figures as JSON: every one a mean with its interval, and the values per object."""
    metrics: tuple[Metric, ...] = ("psnr", "ssim")
    views: dict[str, Any] = {}
    for name in VIEWS:
        views[name] = {
            metric: {m: _number(result.picture_estimate(metric, m, name)) for m in DRAWN}
            | {
                f"gain over {m}": _number(result.picture_estimate(metric, "model", name, m))
                for m in BASELINES
            }
            for metric in metrics
        }
    shape: dict[str, Any] = {
        metric: {m: _number(result.shape_estimate(metric, m)) for m in SHAPED}
        | {"model minus extrusion": _number(result.shape_estimate(metric, "model", "extrusion"))}
        for metric in ("chamfer", "chamfer_scaled", "fscore")
    }
    shape["without surface"] = {m: result.without_surface(m) for m in WITH_SURFACE}
    return {
        "key": result.key,
        "title": result.title,
        "description": result.description,
        "objects": len(result.outcomes),
        "skipped": [skipped._asdict() for skipped in result.skipped],
        "notes": result.notes,
        "views": views,
        "shape": shape,
        "per_object": [
            {
                "name": o.name,
                "angles": _rounded(o.angles),
                "psnr": {m: _rounded(v) for m, v in o.psnr.items()},
                "ssim": {m: _rounded(v) for m, v in o.ssim.items()},
                "shape": {m: None if s is None else s._asdict() for m, s in o.shape.items()},
            }
            for o in result.outcomes
        ],
    }


def markdown(
    results: Sequence[SetResult], made: dict[str, Any], shape: ShapeSettings, size: int
) -> str:
    """The card's section "Held-out figures"."""
    weights, versions = made["weights"], made["versions"]
    hashes = {
        k: v for k, v in weights["files_sha256"].items() if not k.endswith((".json", ".yaml"))
    }
    name, code = next(iter(hashes.items()), ("tensors", weights["tensors_sha256"]))
    blocks = [
        "## Held-out figures",
        f"Weights: {weights['parameters'] / 1e6:.1f} M parameters, SHA-256 of {name} "
        f"`{code}`; fastrecon {versions['fastrecon'] or 'from source'}, torch "
        f"{versions['torch']}, {made['machine']['device']}. Written by `{made['command']}`.",
    ]
    if results:
        blocks.append(
            f"Pictures of {size} x {size} pixels on white. Views are random orbits (azimuth over "
            "the full circle, elevation -30 to 60 degrees). *Mean image*: the mean of training "
            "pictures over all cameras. *Extrusion*: the input's silhouette, extruded and painted "
            "with the input picture. In brackets: 95% bootstrap intervals over objects; gains are "
            "paired."
        )
    for result in results:
        blocks += [f"### {result.title}", _sentence(result)]
        blocks += [_picture_table(result, "psnr"), _picture_table(result, "ssim")]
        blocks += [_shape_table(result), _shape_words(result, shape)]
        if others := published_table(result.data_set, ("chamfer_scaled",)):
            blocks.append(others)
    return "\n\n".join(blocks) + "\n"


def insert(path: Path, text: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """The content for ``path``: the section alone, or what is there with its section replaced.

    Args:
        markers: lines around the section.

    Raises:
        ValueError: the file exists and has no place for the section.
    """
    first, last = markers
    section = f"{first}\n{text}{last}\n"
    if not path.exists():
        return section
    before, begin, rest = path.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(
            f"{path} exists and has no lines {first} and {last} to write between; add them where "
            "the section belongs, or name a new file"
        )
    return before + section + after.removeprefix("\n")


def _sentence(result: SetResult) -> str:
    text = result.description[0].upper() + result.description[1:] + "."
    if result.skipped:
        text += f" {len(result.skipped)} could not be used (the reasons are in evaluation.json)."
    if result.notes:
        text += f" {len(result.notes)} notes on reading them are in evaluation.json."
    return text


def _picture_table(result: SetResult, metric: Metric) -> str:
    name, digits = ("PSNR, dB", 2) if metric == "psnr" else ("SSIM", 3)
    rows = [
        [f"{name}: views", "pictures", "mean image", "extrusion", "model"]
        + [f"gain over {'the ' if m == 'mean image' else ''}{m}" for m in BASELINES]
    ]
    for views in VIEWS:
        whole = result.picture_estimate(metric, "model", views)
        if whole is None:
            rows.append([VIEW_NAMES[views], "0", *["-"] * 5])
            continue
        cells = [_text(result.picture_estimate(metric, m, views), digits) for m in BASELINES]
        gains = [result.picture_estimate(metric, "model", views, m) for m in BASELINES]
        rows.append(
            [VIEW_NAMES[views], str(whole.count), *cells, whole.text(digits)]
            + [_text(gain, digits, signed=True) for gain in gains]
        )
    return table(rows)


def _shape_table(result: SetResult) -> str:
    metrics = ("chamfer", "chamfer_scaled", "fscore")
    rows = [["surface", "Chamfer, scene units", "Chamfer, longest side 2", "F-score"]]
    for method in ("extrusion", "model", "truth"):
        cells = [_text(result.shape_estimate(m, method), SHAPE_DIGITS) for m in metrics]
        rows.append([METHOD_NAMES.get(method, method), *cells])
    differences = [result.shape_estimate(m, "model", "extrusion") for m in metrics]
    rows.append(
        ["model minus extrusion", *(_text(d, SHAPE_DIGITS, signed=True) for d in differences)]
    )
    return table(rows)


def _shape_words(result: SetResult, shape: ShapeSettings) -> str:
    text = (
        "Chamfer: mean distance to the nearest point, summed over both directions, not squared; "
        f"{shape.points:,} points on each surface, meshes cut at {shape.resolution}^3, no "
        "alignment. F-score: harmonic mean of the shares of points within "
        f"{TOLERANCE:.0%} of the true object's longest side."
    )
    for method in WITH_SURFACE:
        absent = len(result.without_surface(method))
        if absent:
            text += (
                f" The {method} has no surface for {absent} of {len(result.outcomes)} objects: "
                "left out of Chamfer (for every method), an F-score of 0."
            )
    return text


def _text(value: Estimate | None, digits: int, signed: bool = False) -> str:
    return "-" if value is None else value.text(digits, signed)


def _number(value: Estimate | None) -> dict[str, float] | None:
    return None if value is None else vars(value)


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(x, 5) for x in values.tolist()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _file_hashes(source: Path) -> dict[str, str]:
    """SHA-256 of the weights' files; empty for what came from a hub."""
    files = sorted(source.glob("*")) if source.is_dir() else [source]
    kinds = (".safetensors", ".ckpt", ".json", ".yaml")
    return {
        file.name: file_sha256(file) for file in files if file.is_file() and file.suffix in kinds
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
