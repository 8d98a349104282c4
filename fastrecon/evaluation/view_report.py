"""The report on posed pictures and photographs: tables for people, numbers for machines."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .cycles import CYCLE_AZIMUTHS, CYCLE_ELEVATIONS, SEMANTIC_VIEWS
from .tables import HEADS, published_table, table
from .views import AROUND, BOTH, CYCLE, INPUT, METRICS, NOVEL, ViewResult

GROUP_NAMES = {
    NOVEL: NOVEL,
    INPUT: INPUT,
    BOTH: f"{BOTH} (what the public code averages)",
    AROUND: f"{SEMANTIC_VIEWS} views around, against the input",
    CYCLE: f"the input again, by way of {len(CYCLE_AZIMUTHS)} views",
}
FILL_SLACK = 0.15
"""How far objects may be from the size that a model expects before the report says so."""


def view_markdown(result: ViewResult, size: int, foreground_ratio: float) -> str:
    """A set's section.

    Args:
        size: of the pictures compared, pixels.
        foreground_ratio: what the model expects objects to fill.
    """
    words = (
        f"{_capital(result.description)}. Pictures of {size} x {size} pixels on white; input "
        f"camera at a distance of {result.camera.distance:.4g}. In brackets: 95% bootstrap "
        "intervals over objects."
    )
    if result.skipped:
        words += (
            f" {len(result.skipped)} objects could not be used (the reasons are in "
            "evaluation.json)."
        )
    blocks = [f"### {result.title}", words]
    if result.search:
        blocks.append(_search_words(result))
    blocks.append(_table(result))
    if result.fid:
        fid = result.fid
        blocks.append(
            f"FID ({fid.pictures} pictures around against {fid.references} input pictures): "
            f"{fid.value:.2f}. It falls with the number of pictures: compare equal numbers only."
        )
    blocks += [f"Not computed: {name}, because {why}." for name, why in result.absent.items()]
    if NOVEL in result.groups and abs(result.fill - foreground_ratio) > FILL_SLACK:
        blocks.append(
            f"Objects fill {result.fill:.2f} of the input pictures' side; the model was made for "
            f"{foreground_ratio:.2f}, which --crop {1 / foreground_ratio:.2f} gives it."
        )
    metrics = ("psnr", "ssim", "perceptual")
    if NOVEL in result.groups and (others := published_table(result.data_set, metrics)):
        blocks.append(others)
    return "\n\n".join(blocks) + "\n"


def view_summary(result: ViewResult) -> dict[str, Any]:
    """A set's figures as JSON: means with intervals, the values per picture, what is missing."""
    groups: dict[str, Any] = {}
    for group in result.groups:
        groups[group] = {m: _number(result, group, m) for m in METRICS}
        groups[group] = {m: number for m, number in groups[group].items() if number}
    if CYCLE in groups:
        groups[CYCLE]["cameras"] = [
            {"azimuth": a, "elevation": e} | _means(result, k)
            for k, (a, e) in enumerate(zip(CYCLE_AZIMUTHS, CYCLE_ELEVATIONS, strict=True))
        ]
    return {
        "key": result.key,
        "title": result.title,
        "description": result.description,
        "data_set": result.data_set,
        "camera": vars(result.camera),
        "objects": len(result.measured),
        "fill": round(result.fill, 4),
        "skipped": [skipped._asdict() for skipped in result.skipped],
        "perceptual": result.perceptual_name,
        "not_computed": result.absent,
        "groups": groups,
        "fid": result.fid._asdict() if result.fid else None,
        "distance_search": vars(result.search) if result.search else None,
        "per_object": [
            {
                "name": one.name,
                "fill": round(one.fill, 4),
                "groups": {
                    group: {m: _rounded(values) for m, values in metrics.items()}
                    for group, metrics in one.groups.items()
                    if group != BOTH  # the other two say it
                },
            }
            for one in result.measured
        ],
    }


def _table(result: ViewResult) -> str:
    shown = [m for m in METRICS if any(result.values(g, m) is not None for g in result.groups)]
    heads = {m: HEADS[m][0] for m in shown}
    if "perceptual" in heads:
        heads["perceptual"] = result.perceptual_name
    rows = [["pictures judged", "number", *heads.values()]]
    for group in result.groups:
        found = {m: result.estimate(group, m) for m in shown}
        counts = {e.count for e in found.values() if e is not None}
        if counts:
            cells = [e.text(HEADS[m][1]) if e else "-" for m, e in found.items()]
            rows.append([GROUP_NAMES[group], str(max(counts)), *cells])
    return table(rows)


def _search_words(result: ViewResult) -> str:
    search = result.search
    assert search is not None
    tried = ", ".join(
        f"{d:.3g}: {p:.2f}" for d, p in zip(search.distances, search.psnr, strict=True)
    )
    return (
        f"**The camera's distance, {search.best:.4g}, was chosen on these very pictures** as the "
        "one with the highest PSNR of novel views (Real3D's Table 7 does so for TripoSR as "
        f"released): an upper bound, not a prediction. Distances and PSNR, dB: {tried}."
    )


def _means(result: ViewResult, camera: int) -> dict[str, float]:
    """Mean of every metric at one intermediate camera."""
    tables = {m: result.values(CYCLE, m) for m in METRICS}
    return {m: round(float(t[:, camera].mean()), 5) for m, t in tables.items() if t is not None}


def _number(result: ViewResult, group: str, metric: str) -> dict[str, float] | None:
    found = result.estimate(group, metric)
    return None if found is None else vars(found)


def _rounded(values: Tensor) -> list[float]:
    return [round(x, 5) for x in values.tolist()]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
