"""``fastrecon evaluate`` from options to files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..checkpoint import write_atomic
from ..data.posed import open_collection, open_photos
from ..models.lrm import LRM
from ..recipes import RECONSTRUCTION_RECIPES
from ..reconstruct import load_model
from .cycles import InputCamera
from .figures import curve, plot, sheet
from .instances import PhotoPictures, PosedSet
from .judges import load_judges
from .mesh_set import MeshSet
from .options import GRID, EvaluateOptions
from .protocol import SetResult, ShapeSettings, evaluate_set
from .published import known_set
from .report import conditions, file_sha256, insert, markdown, summary
from .subjects import ProceduralSet, SubjectSet
from .view_report import view_markdown, view_summary
from .view_sheets import view_sheet
from .views import Parts, Search, ViewResult, evaluate_views, search_distance


def evaluate(options: EvaluateOptions, command: str) -> int:
    """Evaluate, print the tables, write the report. Returns the exit code.

    Raises:
        ValueError, OSError, ImportError: the message says what to do; nothing was written.
    """
    options.check()
    began = time.perf_counter()
    if options.markdown is not None:
        insert(options.markdown, "")  # refuse before the work, not after it
    options.out.mkdir(parents=True, exist_ok=True)
    lrm = load_model(options.weights, options.device)
    sets = _subject_sets(lrm, options)
    pictures = _picture_sets(lrm, options)
    views = _evaluate_pictures(lrm, pictures, options)
    results = _evaluate_objects(lrm, sets, options)

    made: dict[str, Any] = conditions(
        lrm, options.weights, json.loads(json.dumps(options.flat(), default=str))
    )
    made |= {"command": command, "seconds": round(time.perf_counter() - began, 1)}
    judging = options.judges.files if views else {}
    made["judge_files_sha256"] = {name: file_sha256(path) for name, path in judging.items()}
    shape = ShapeSettings(options.resolution, options.points, options.seed)
    size = options.pictures.picture_size
    text = markdown(results, made, shape, options.size)
    for view in views:
        text += "\n" + view_markdown(view, size, lrm.config.foreground_ratio)
    content = {
        "conditions": made,
        "sets": [summary(result) for result in results],
        "picture_sets": [view_summary(view) for view in views],
    }
    files = _files(results, views, text, content)
    for name, data in files.items():
        write_atomic(options.out / name, data)
    if options.markdown is not None:
        write_atomic(options.markdown, insert(options.markdown, text).encode())
    print(text)
    for result in (*results, *views):
        for skipped in result.skipped:
            print(f"left out: {skipped.name}: {skipped.reason}")
    print(f"{made['seconds']:.0f} s; {options.out}/: {'  '.join(files)}")
    return 0


def _subject_sets(lrm: LRM, options: EvaluateOptions) -> list[SubjectSet]:
    held_out, sets = options.held_out, []
    if options.objects:
        cfg = replace(RECONSTRUCTION_RECIPES[held_out.recipe](), model=lrm.config)
        sets.append(ProceduralSet(cfg, options.objects, held_out.views, options.size))
    if held_out.meshes:
        sets.append(
            MeshSet(
                held_out.meshes,
                held_out.mesh_objects,
                lrm.config,
                held_out.views,
                options.size,
                options.seed,
                held_out.up,
            )
        )
    return sets


def _evaluate_objects(
    lrm: LRM, sets: Sequence[SubjectSet], options: EvaluateOptions
) -> list[SetResult]:
    from ..data.stream import mean_image

    if not sets:
        return []
    print("mean image of 256 training objects ...", flush=True)
    cfg = replace(RECONSTRUCTION_RECIPES[options.held_out.recipe](), model=lrm.config)
    mean = mean_image(cfg, options.size)
    shape = ShapeSettings(options.resolution, options.points, options.seed)
    results = [evaluate_set(lrm, subjects, mean, shape) for subjects in sets]
    for result in results:
        if result.key == "meshes":
            result.data_set = known_set(" ".join(options.held_out.meshes))
    return results


def _picture_sets(lrm: LRM, options: EvaluateOptions) -> list[PosedSet | PhotoPictures]:
    chosen, model = options.pictures, lrm.config
    if not (chosen.posed or chosen.photos):
        return []
    camera = InputCamera(
        options.distance or model.camera_distance,
        model.fov_deg if chosen.fov is None else chosen.fov,
    )
    side, size = model.encoder.image_size, chosen.picture_size
    sets: list[PosedSet | PhotoPictures] = []
    if chosen.posed:
        collection = open_collection(chosen.posed, chosen.layout)
        sets.append(
            PosedSet(
                collection,
                chosen.posed,
                camera,
                side,
                size,
                most=chosen.instances,
                targets=chosen.targets,
                crop=chosen.crop,
                seed=options.seed,
                refocus=chosen.fov is not None,
                data_set=known_set(chosen.posed, collection.layout),
            )
        )
    if chosen.photos:
        photos = open_photos(chosen.photos)
        ratio = 1.0 / chosen.crop if chosen.crop else model.foreground_ratio
        sets.append(
            PhotoPictures(
                photos,
                chosen.photos,
                camera,
                side,
                size,
                ratio,
                most=chosen.pictures,
                seed=options.seed,
                data_set=known_set(chosen.photos),
            )
        )
    return sets


def _evaluate_pictures(
    lrm: LRM, sets: Sequence[PosedSet | PhotoPictures], options: EvaluateOptions
) -> list[ViewResult]:
    if not sets:
        return []
    chosen, judges = options.pictures, options.judges
    semantic = chosen.semantic or bool(chosen.photos)
    device: torch.device = next(lrm.parameters()).device
    print("looking for the networks that judge pictures ...", flush=True)
    loaded = load_judges(judges.networks, judges.inception_weights, device, semantic)
    for name, why in loaded.absent.items():
        print(f"not computed: {name}, because {why}", flush=True)
    results = []
    for instances in sets:
        parts, search = Parts(True, True), None
        if isinstance(instances, PosedSet):
            parts = Parts(chosen.semantic, chosen.self_consistency)
            if chosen.camera_distance == GRID:
                instances, search = _searched(lrm, instances)
        found = evaluate_views(lrm, instances, instances.camera, loaded, parts)
        found.search = search
        results.append(found)
    return results


def _searched(lrm: LRM, instances: PosedSet) -> tuple[PosedSet, Search]:
    search = search_distance(lrm, instances)
    camera = replace(instances.camera, distance=search.best)
    return replace(instances, camera=camera, skipped=[]), search


def _files(
    results: Sequence[SetResult], views: Sequence[ViewResult], text: str, content: dict[str, Any]
) -> dict[str, bytes]:
    from ..export.pictures import png_bytes

    files = {
        "evaluation.json": json.dumps(content, indent=1).encode(),
        "tables.md": text.encode(),
    }
    if results:
        curves = [curve(r, over) for r in results for over in ("mean image", "extrusion")]
        files["gain_by_angle.png"] = png_bytes(plot(curves))
    files |= {f"sheet_{result.key}.png": png_bytes(sheet(result)) for result in results}
    return files | {f"sheet_{view.key}.png": png_bytes(view_sheet(view)) for view in views}
