"""``fastrecon evaluate scenes`` and ``generated`` from options to files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...checkpoint import write_atomic
from ...data.rgbd import RGBDBatch
from ...export.pictures import png_bytes, to_picture
from ...models.super_resolution import load_upscaler
from ...models.trigen import TriGen
from ...reconstruct import named_device
from ..fid import FEATURES, LOGITS, load_layers
from ..report import conditions, file_sha256
from ..scene_validation import SceneSet, judge_scenes, scene_grid
from .figures import kernel_figure, level_figure, sigma_figure
from .options import PROCEDURAL, GeneratedOptions, SceneOptions, flat
from .report import ModelScores, content, markdown
from .sides import SideScores, judge_sides
from .sources import FileScenes, GeneratedScenes, ProceduralScenes, SceneSource

NO_INCEPTION = "it needs --inception-weights, a file that nothing replaces"


def evaluate_scenes(options: SceneOptions, command: str) -> int:
    """Judge models on pictures with depth, print the tables, write the report; the exit code.

    Raises:
        ValueError, OSError, ImportError: the message says what to do; nothing was written.
    """
    options.check()
    models = _models(options.weights, options.protocol.device)
    return _evaluate(options, _source(options), models, options.weights, command)


def evaluate_generated(options: GeneratedOptions, command: str) -> int:
    """The same for scenes that a diffusion model begins; see `evaluate_scenes`."""
    options.check()
    models = _models(options.trigen, options.protocol.device)
    return _evaluate(options, _generated(options), models, options.trigen, command)


def _models(weights: Sequence[str], device: str) -> dict[str, TriGen]:
    """Models by names that tell them apart."""
    chosen = named_device(device)
    return {
        name: TriGen.from_pretrained(source, device=chosen).eval()
        for name, source in zip(model_names(weights), weights, strict=True)
    }


def model_names(weights: Sequence[str]) -> list[str]:
    """The shortest ends of paths that are all different: ``a/model b/model`` stay as they are."""
    parts = [Path(source).parts for source in weights]
    for length in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return list(weights)


def _source(options: SceneOptions) -> SceneSource:
    protocol = options.protocol
    if options.data == PROCEDURAL:
        return ProceduralScenes(protocol.seed, options.views, options.max_parts, protocol.pictures)
    return FileScenes(options.data, protocol.seed)


def _generated(options: GeneratedOptions) -> SceneSource:
    from ...models.rgbd import RGBDDiffusion

    protocol = options.protocol
    real = FileScenes(options.data, protocol.seed) if options.data else None
    diffusion = RGBDDiffusion.from_pretrained(
        options.diffusion, device=named_device(protocol.device)
    )
    named = options.classes or tuple(diffusion.config.classes)
    classes = [diffusion.label(int(c) if c.isdecimal() else c) for c in named]
    return GeneratedScenes(
        diffusion,
        options.diffusion,
        classes,
        options.guidance,
        options.steps,
        protocol.seed,
        max(protocol.pictures, protocol.scenes),
        real,
    )


def _evaluate(
    options: SceneOptions | GeneratedOptions,
    source: SceneSource,
    models: dict[str, TriGen],
    weights: Sequence[str],
    command: str,
) -> int:
    began, protocol = time.perf_counter(), options.protocol
    upscaler = load_upscaler(protocol.super_resolution, named_device(protocol.device))
    network, absent = None, {}
    if protocol.inception_weights:
        device = named_device(protocol.device)
        network = load_layers(protocol.inception_weights, [FEATURES, LOGITS], device)
        if isinstance(source, GeneratedScenes) and source.real is None:
            absent["FID"] = "it needs --data, real pictures to compare with"
    else:
        absent["FID and IS"] = NO_INCEPTION
        print(f"not computed: FID and IS, because {NO_INCEPTION}", flush=True)
    protocol.out.mkdir(parents=True, exist_ok=True)

    files: dict[str, bytes] = {}
    results: list[ModelScores] = []
    shown: SceneSet | None = None
    scales = tuple(dict.fromkeys(protocol.sigma_scales))
    for name, model in models.items():
        scenes = source.scene_set(min(protocol.scenes, len(source)), model.config)
        shown = scenes if shown is None else shown
        found, sheet = _fronts(name, model, scenes, scales, protocol.seed)
        results += found
        files[f"sheet_{len(files)}.png"] = sheet
    if network is not None:
        sides = judge_sides(
            models,
            source,
            scales,
            network,
            protocol.pictures,
            upscaler=upscaler,
            seed=protocol.seed,
        )
        results = [_with_sides(result, sides) for result in results]
        absent |= _too_few(results, absent)
    if protocol.figures and shown is not None:
        files |= _figures(models, shown.batch, scales)

    made = _conditions(options, models, weights, command)
    made["seconds"] = round(time.perf_counter() - began, 1)
    text = markdown(results, source.title, made, absent, source.skipped)
    files = {
        "scenes.json": content(results, made, absent, source.skipped),
        "scenes.md": text.encode(),
        **files,
    }
    for name, data in files.items():
        write_atomic(protocol.out / name, data)
    print(text)
    for name, reason in source.skipped.items():
        print(f"left out: {name}: {reason}")
    print(f"{made['seconds']:.0f} s; {protocol.out}/: {'  '.join(files)}")
    return 0


def _fronts(
    name: str, model: TriGen, scenes: SceneSet, scales: Sequence[float], seed: int
) -> tuple[list[ModelScores], bytes]:
    """Scores at every scale, and a sheet of pictures at the first."""
    print(f"{name}: {len(scenes.batch.images)} scenes ...", flush=True)
    unscaled = judge_scenes(model, scenes, seed=seed)
    found = []
    for scale in scales:
        result = unscaled
        if scale != 1.0:
            result = judge_scenes(
                model, scenes, sigma_scale=scale, unscaled=unscaled.pictures, seed=seed
            )
        found.append(ModelScores(name, result.scores(scale), None))
    sheet = to_picture(scene_grid(scenes, unscaled).movedim(0, -1))
    return found, png_bytes(sheet)


def _figures(
    models: dict[str, TriGen], batch: RGBDBatch, scales: Sequence[float]
) -> dict[str, bytes]:
    """The supplement's figures, by file."""
    config = next(iter(models.values())).config
    kernel = kernel_figure(config.render.depth_kernel, config.camera.depth_range)
    return {
        "figure_s1.png": png_bytes(sigma_figure(models, batch, scales)),
        "figure_s2.png": png_bytes(level_figure(models, batch)),
        "figure_s3.png": png_bytes(kernel),
    }


def _with_sides(result: ModelScores, sides: dict[tuple[str, float], SideScores]) -> ModelScores:
    return ModelScores(result.name, result.scores, sides[result.name, result.scores.sigma_scale])


def _too_few(results: Sequence[ModelScores], absent: dict[str, str]) -> dict[str, str]:
    """Scores that Inception was there for but too few pictures."""
    found = {}
    sides = [r.sides for r in results if r.sides is not None]
    if "FID" not in absent and all(s.fid is None for s in sides):
        found["FID"] = "there are fewer than two pictures"
    if all(s.inception is None for s in sides):
        found["IS"] = "there are fewer pictures than its 10 splits"
    return found


def _conditions(
    options: SceneOptions | GeneratedOptions,
    models: dict[str, TriGen],
    weights: Sequence[str],
    command: str,
) -> dict[str, Any]:
    settings = json.loads(json.dumps(flat(options), default=str))
    each = {
        name: conditions(model, source, settings)
        for (name, model), source in zip(models.items(), weights, strict=True)
    }
    first = next(iter(each.values()))
    made = {k: v for k, v in first.items() if k not in ("weights", "model")}
    made["models"] = {n: {k: c[k] for k in ("weights", "model")} for n, c in each.items()}
    made["command"] = command
    inception = options.protocol.inception_weights
    made["judge_files_sha256"] = (
        {"inception_weights": file_sha256(Path(inception))} if inception else {}
    )
    return made
