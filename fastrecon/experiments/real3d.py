"""The claims of Real3D in miniature: does self-training on single pictures help, and which part?

A model that was trained on procedural objects learns from single pictures of meshes, another
domain, and is judged on meshes that it never saw. The arms take the method apart as the paper's
ablations do (section 4.4 and Fig. 5).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..config import Config, SelfTrainingConfig
from ..models.lrm import LRM
from ..recipes import real3d_small
from .experiment import (
    Arm,
    Experiment,
    ExperimentError,
    ExperimentOptions,
    Metric,
    Prepared,
    Scores,
    Settings,
)

MESHES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "meshes"
"""Where a clone may have meshes beside it."""
PHOTOGRAPHS = "photos"
PHOTO_SCALE = 2
"""Side of the photographs over that of the picture that the model reads."""
METRICS = (
    Metric("psnr", "PSNR, dB"),
    Metric("ssim", "SSIM", 3),
    Metric("chamfer", "Chamfer, longest side 2", 3, higher_is_better=False),
    Metric("fscore", "F-score", 3),
)
QUESTION = (
    "A model trained on procedural objects goes on with single pictures of meshes, another domain: "
    "one photograph each with random lights, turns and crops. Judged on novel views and surfaces "
    "of meshes whose pictures it never saw. Every arm takes the same number of steps with the same "
    "procedural objects."
)


def _untrained(cfg: Config) -> Config:
    return replace(cfg, optim=replace(cfg.optim, steps=0))


def _terms(cfg: Config, **changed: Any) -> Config:
    """The method without its semantic term, which needs weights, and otherwise as changed."""
    return replace(cfg, self_training=replace(cfg.self_training, **{"semantic": 0.0, **changed}))


def _synthetic(cfg: Config) -> Config:
    return _terms(replace(cfg, data=replace(cfg.data, photos="")), photos=0)


def _share(cfg: Config, share: float) -> Config:
    return _terms(replace(cfg, data=replace(cfg.data, photo_share=share)))


def _no_curriculum(cfg: Config) -> Config:
    widest = cfg.self_training.cycle_limits[1]
    return _terms(cfg, cycle_limits=(widest, widest))


def _semantic(cfg: Config, hardest: bool) -> Config:
    weight = cfg.self_training.semantic or SelfTrainingConfig().semantic
    return _terms(cfg, semantic=weight, semantic_hardest=hardest)


def _change(function: Callable[..., Config], **values: Any) -> Callable[[Config], Config]:
    return partial(function, **values)


REAL3D_ARMS: dict[str, Arm] = {
    "base": Arm("base", _untrained),
    "synthetic": Arm("synthetic only", _synthetic),
    "input": Arm("+ L_in", _change(_terms, cycle_rgb=0.0, cycle_mask=0.0, cycle_perceptual=0.0)),
    "pix": Arm("+ L_pix", _terms),
    "pix-flat": Arm("+ L_pix, no curriculum", _no_curriculum),
    "end-to-end": Arm("+ L_pix, end-to-end cycle", _change(_terms, stop_gradient=False)),
    "pix-25": Arm("+ L_pix, 25% of the photographs", _change(_share, share=0.25)),
    "pix-50": Arm("+ L_pix, 50% of the photographs", _change(_share, share=0.5)),
}
"""Without CLIP's weights."""
CLIP_ARMS: dict[str, Arm] = {
    "sem": Arm("+ L_sem", _change(_semantic, hardest=True)),
    "sem-naive": Arm("+ L_sem on all views", _change(_semantic, hardest=False)),
}
"""With them, after the others."""


def _start() -> Config:
    cfg = real3d_small()
    return replace(cfg, run=replace(cfg.run, out="runs/real3d_mini"))


@dataclass(frozen=True)
class Real3DMini(ExperimentOptions):
    """Real3D's self-training in miniature: 8 arms x 3 seeds on meshes, about an hour on two cores.

    Meshes are photographed once each; some are held out and never photographed. Every arm is a
    normal training run. The same command again continues what was interrupted.
    """

    meshes: tuple[str, ...] = ()
    """GLB, OBJ and PLY files, folders (searched with their subfolders), or quoted globs."""
    up: Literal["y", "z"] = "y"
    """Axis of the mesh files that points up: y (glTF, most OBJ) or z (CAD, robotics)."""
    objects: int = 64
    """Held-out meshes, spread over the folders."""
    views: int = 4
    """Random views of each that are compared."""
    size: int = 64
    """Side of the pictures that are compared, pixels."""
    resolution: int = 64
    """Grid points along a side of the box in which reconstructed meshes are cut."""
    points: int = 5_000
    """Points on each surface for Chamfer distance and F-score."""
    split: int = 0
    """Seed of the split, the photographs and the views; the same for all arms and seeds."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=_start)

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        super().check()
        least = {"objects": 1, "views": 1, "size": 7, "resolution": 4, "points": 1, "split": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"--{name} must be at least {low}, got {getattr(self, name)}")
        if self.config.self_training.photos < 1:
            raise ValueError(
                "--self-training.photos must be at least 1: it is what all arms but base and "
                "synthetic learn from"
            )
        if self.config.data.photos:
            raise ValueError(
                "--data.photos is what this experiment makes from --meshes; to train on your own "
                "pictures, use a recipe (real3d)"
            )

    def experiment(self) -> Experiment:
        """The experiment that these options ask for."""
        clip = bool(self.config.networks.clip_weights)
        return Experiment(
            name="real3d_mini",
            title="Real3D in miniature",
            question=QUESTION,
            arms=REAL3D_ARMS | (CLIP_ARMS if clip else {}),
            references=("synthetic", "base"),
            metrics=METRICS,
            prepare=self._prepare,
            evaluate=evaluate,
        )

    def _prepare(self, dry: bool) -> Prepared:
        from .photographs import Photographs

        meshes = self.meshes or _default_meshes()
        held_out, training = split(meshes, self.objects, self.split)
        folder, model = Path(self.config.run.out) / PHOTOGRAPHS, self.config.model
        side = PHOTO_SCALE * model.encoder.image_size
        photographs = Photographs(training, folder, model, side, self.split, self.up)
        todo = ""
        if dry:
            failed, missing = photographs.failed(), len(photographs.missing())
            todo = f"{missing} of {len(training)} photographs to render, about 10 kB each"
        else:
            failed = photographs.render()
            for name, reason in failed.items():
                print(f"not photographed: {name}: {reason}")
        settings: Settings = {
            "meshes": {name: str(path) for name, path in held_out.items()},
            **{
                name: getattr(self, name)
                for name in ("up", "views", "size", "resolution", "points", "split")
            },
        }
        conditions = {
            "photographs": len(training) - len(failed),
            "photographs per step": self.config.self_training.photos,
            "held-out meshes": len(held_out),
            "views of each": self.views,
            "side of the pictures": f"{self.size} px",
            "surfaces": f"cut at {self.resolution}^3, {self.points} points",
        }
        config = replace(self.config, data=replace(self.config.data, photos=str(folder)))
        return Prepared(config, settings, conditions, todo)


def _default_meshes() -> tuple[str, ...]:
    if not MESHES.is_dir():
        raise ExperimentError(
            "no meshes are named; give files or folders of GLB, OBJ or PLY files with --meshes, "
            "some hundred small ones of one kind or several"
        )
    return (str(MESHES),)


def split(
    meshes: Sequence[str], objects: int, seed: int
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Meshes to judge on and meshes to photograph, by name; no file is in both.

    At most half of every folder is held out, so that no kind of mesh is only judged on, and
    otherwise as evenly as `evaluation.mesh_set.choose` takes them.

    Raises:
        RenderSetError: something named does not exist, or holds no mesh.
        ExperimentError: there are too few to hold so many out.
    """
    from ..data.render_set import find_meshes
    from ..evaluation.mesh_set import choose

    found = find_meshes(meshes)
    folders: dict[Path, list[str]] = {}
    for name, path in found.items():
        folders.setdefault(path.parent, []).append(name)
    half = {
        name
        for names in folders.values()
        for name in random.Random(f"{seed}/{names[0]}").sample(names, (len(names) + 1) // 2)
    }
    held_out = choose({n: p for n, p in found.items() if n in half}, objects, seed)
    files = {(path.stat().st_size, path.read_bytes()) for path in held_out.values()}
    sizes = {size for size, _ in files}
    training = {
        name: path
        for name, path in found.items()
        if name not in held_out
        and not ((size := path.stat().st_size) in sizes and (size, path.read_bytes()) in files)
    }
    if len(held_out) < objects or not training:
        raise ExperimentError(
            f"{len(found)} meshes are too few to hold out {objects} and at least as many to "
            "photograph; name more with --meshes, or hold out fewer with --objects"
        )
    return held_out, training


def evaluate(lrm: LRM, cfg: Config, settings: Settings) -> Scores:
    """Novel views and surfaces of the held-out meshes; the input view itself is not scored."""
    from ..evaluation.mesh_set import MeshSet
    from ..evaluation.protocol import ShapeSettings, evaluate_set

    paths = list(settings["meshes"].values())
    subjects = MeshSet(
        paths,
        len(paths),
        lrm.config,
        settings["views"],
        settings["size"],
        settings["split"],
        settings["up"],
    )
    # Under the names of the split: those of single files depend on where they lie.
    subjects.chosen = {name: Path(path) for name, path in settings["meshes"].items()}
    shape = ShapeSettings(settings["resolution"], settings["points"], settings["split"])
    result = evaluate_set(lrm, subjects, None, shape, baselines=False, shapes=True)
    novel = result.chosen("all")
    names = [outcome.name for outcome in result.outcomes]
    scores: Scores = {}
    for metric in ("psnr", "ssim"):
        values = result.values(metric, "model").double()
        means = (values * novel).sum(1) / novel.sum(1)
        scores[metric] = dict(zip(names, _known(means.tolist()), strict=True))
    for metric, key in (("chamfer", "chamfer_scaled"), ("fscore", "fscore")):
        values = result.shape_values(key, "model")[:, 0]
        scores[metric] = dict(zip(names, _known(values.tolist()), strict=True))
    return scores


def _known(values: Sequence[float]) -> list[float | None]:
    """NaN, which JSON has not, becomes None."""
    return [value if value == value else None for value in values]
