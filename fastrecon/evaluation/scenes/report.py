"""The report on scenes: one table of ours, the supplement's beside it, numbers for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..estimates import Estimate
from ..scene_validation import SceneScores
from ..tables import table
from .published import SOURCE, TABLE_S1, TABLE_S2
from .sides import SideScores

MEASURES = (
    "PSNR of the input view and of novel views (over pixels that show the box) in dB; depth "
    "accuracy is the MSE of depth maps of mean 0 and deviation 1, lower is better; NFS the mean "
    "non-flatness of the front's depth; brackets are 95% intervals over scenes."
)


@dataclass(frozen=True)
class ModelScores:
    """One model at one density scale."""

    name: str
    scores: SceneScores
    sides: SideScores | None


def markdown(
    results: Sequence[ModelScores],
    title: str,
    made: Mapping[str, Any],
    absent: Mapping[str, str],
    skipped: Mapping[str, str],
) -> str:
    """The tables and what they were measured on."""
    versions = made["versions"]
    blocks = [
        "## Scenes",
        f"On {title}. fastrecon {versions['fastrecon'] or 'from source'}, torch "
        f"{versions['torch']}, {made['machine']['device']}. Written by `{made['command']}`.",
        _ours(results),
        MEASURES,
        *(f"Not computed: {name}, because {why}." for name, why in absent.items()),
    ]
    if skipped:
        blocks.append(f"{len(skipped)} pictures were left out, see scenes.json.")
    blocks += ["### Published", published_tables()]
    return "\n\n".join(blocks) + "\n"


def _ours(results: Sequence[ModelScores]) -> str:
    """One row per model and scale; columns that nothing fills are left out."""
    columns = [
        ("model", [r.name for r in results]),
        ("sigma x", [f"{r.scores.sigma_scale:g}" for r in results]),
        ("PSNR", [r.scores.psnr.text() for r in results]),
        ("PSNR to sigma x 1", [_text(r.scores.against_unscaled) for r in results]),
        ("novel PSNR", [_text(r.scores.novel_psnr) for r in results]),
        ("depth accuracy", [r.scores.depth_accuracy.text(3) for r in results]),
        (
            f"NFS ({max(r.scores.scenes for r in results)} maps)",
            [r.scores.non_flatness.text() for r in results],
        ),
        (_head("FID", results), [_fid(r) for r in results]),
        (_head("IS", results), [_inception(r) for r in results]),
    ]
    kept = [(head, cells) for head, cells in columns if any(cell != "-" for cell in cells)]
    rows = zip(*([head, *cells] for head, cells in kept), strict=True)
    return table([list(row) for row in rows])


def _text(value: Estimate | None) -> str:
    return "-" if value is None else value.text()


def _head(name: str, results: Sequence[ModelScores]) -> str:
    """With the numbers of pictures, which both scores depend on."""
    for r in results:
        if name == "FID" and r.sides is not None and r.sides.fid is not None:
            return f"FID ({r.sides.fid.pictures} views, {r.sides.fid.references} real)"
        if name == "IS" and r.sides is not None and r.sides.inception is not None:
            return f"IS ({r.sides.inception.pictures} views)"
    return name


def _fid(result: ModelScores) -> str:
    if result.sides is None or result.sides.fid is None:
        return "-"
    return f"{result.sides.fid.value:.2f}"


def _inception(result: ModelScores) -> str:
    if result.sides is None or result.sides.inception is None:
        return "-"
    return f"{result.sides.inception.mean:.2f} +- {result.sides.inception.deviation:.2f}"


def published_tables() -> str:
    """Tables S1 and S2."""
    scaled = [["method", "sigma x", "FID", "IS", "NFS"]]
    scaled += [
        [r.method, f"{r.scale:g}", f"{r.fid:.2f}", f"{r.inception_score:.2f}", f"{r.nfs:.2f}"]
        for r in TABLE_S1
    ]
    s2 = TABLE_S2
    data = [
        ["method", "FID", "IS", "NFS", "depth accuracy"],
        [
            "G3DR",
            f"{s2.fid:.2f}",
            f"{s2.inception_score:.1f}",
            f"{s2.nfs:.1f}",
            f"{s2.depth_accuracy:.2f}",
        ],
    ]
    return "\n\n".join(
        [
            f"{SOURCE}, Table S1, generated pictures:",
            table(scaled),
            "Table S2, pictures of ImageNet:",
            table(data),
            "FID and IS of 50,000 pictures, NFS of 256 depth maps, of 128-pixel models trained on "
            "ImageNet; models of other data and sizes, and other counts, give other figures.",
        ]
    )


def content(
    results: Sequence[ModelScores],
    made: Mapping[str, Any],
    absent: Mapping[str, str],
    skipped: Mapping[str, str],
) -> bytes:
    """Everything, as a JSON file."""
    listed = []
    for r in results:
        sides = None
        if r.sides is not None:
            fid, score = r.sides.fid, r.sides.inception
            sides = {
                "fid": None if fid is None else fid._asdict(),
                "inception_score": None if score is None else score._asdict(),
            }
        listed.append({"model": r.name, **asdict(r.scores), "sides": sides})
    tables = {"table_s1": [row._asdict() for row in TABLE_S1], "table_s2": TABLE_S2._asdict()}
    everything = {
        "conditions": made,
        "results": listed,
        "not_computed": absent,
        "skipped": skipped,
        "published": {"source": SOURCE, **tables},
    }
    return json.dumps(everything, indent=1).encode()
