"""Table S1 of G3DR in miniature: does the depth kernel keep a scene from collapsing?

Volume rendering can show the right picture with the wrong volume: thin fog all along a ray adds up
to the colour and the mean depth that were asked for. Multiplying every density by the same factor
before rendering (supplement, S.3) tells the two apart, because a surface stays where it is and fog
moves to the camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
import tyro

from ..config.g3dr import G3DRConfig
from ..models.trigen import TriGen
from ..recipes.g3dr import g3dr_mini
from .experiment import Arm, Experiment, ExperimentOptions, Metric, Prepared, Scores, Settings

SIGMA_SCALES = (1.0, 5.0, 10.0, 50.0)
"""Factors of the densities (Table S1)."""
KL_WEIGHT = 2.0
"""That of the depth L1 which it takes the place of; the supplement gives none."""
QUESTION = (
    "The same small f_trigen is trained on the same procedural scenes three times: with depth L1 "
    "and nothing else, with DS-NeRF's KL on the samples' weights as its depth loss, and with depth "
    "L1 and G3DR's depth kernel. Judged on scenes that it never saw, with every density multiplied "
    "by 1, 5, 10 and 50 before rendering: the shape of the canonical view's depth (0 is perfect, 2 "
    "is unrelated), its non-flatness, how far its picture moves away from that at scale 1; and, at "
    "scale 1, novel views whose truth is known."
)


def _terms(cfg: G3DRConfig, **changed: Any) -> G3DRConfig:
    return replace(cfg, loss=replace(cfg.loss, **changed))


G3DR_ARMS: dict[str, Arm] = {
    "plain": Arm("no regularisation", partial(_terms, depth_kernel=False, depth_kl=0.0)),
    "kl": Arm("KL", partial(_terms, depth_kernel=False, depth=0.0, depth_kl=KL_WEIGHT)),
    "kernel": Arm("depth kernel", partial(_terms, depth_kernel=True, depth_kl=0.0)),
}


def metrics() -> tuple[Metric, ...]:
    """One figure per scene and scale."""
    found = [
        Metric("psnr_novel", "PSNR of novel views, dB"),
        Metric("psnr_input", "PSNR of the input view, dB"),
    ]
    for scale in SIGMA_SCALES:
        name, words = _key("depth", scale), f"depth accuracy, sigma x {scale:g}"
        found.append(Metric(name, words, 3, higher_is_better=False))
    found += [
        Metric(_key("nfs", scale), f"non-flatness, sigma x {scale:g}") for scale in SIGMA_SCALES
    ]
    found += [
        Metric(_key("psnr_unscaled", scale), f"PSNR to sigma x 1, sigma x {scale:g}, dB")
        for scale in SIGMA_SCALES[1:]
    ]
    return tuple(found)


@dataclass(frozen=True)
class G3DRMini(ExperimentOptions):
    """G3DR's depth kernel in miniature: 3 arms x 3 seeds, procedural scenes, about 40 minutes.

    The time is that of two CPU cores. Every arm is a normal training run. The same command again
    continues what was interrupted.
    """

    scenes: int = 64
    """Held-out scenes, the same for all arms and seeds."""
    views: int = 2
    """Novel views of each that are compared with the truth, at most 4."""
    split: int = 0
    """Seed of the held-out scenes."""
    config: Annotated[G3DRConfig, tyro.conf.arg(name="")] = field(default_factory=g3dr_mini)

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        super().check()
        from ..evaluation.scene_validation import YAWS

        for name, low in {"scenes": 2, "views": 1, "split": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"--{name} must be at least {low}, got {getattr(self, name)}")
        if self.views > len(YAWS):
            raise ValueError(f"--views must be at most {len(YAWS)}, got {self.views}")
        if not (self.config.loss.depth and self.config.loss.novel):
            raise ValueError(
                "--loss.depth and --loss.novel must be positive: without them there is no depth "
                "supervision to compare, or nothing that the kernel could be better for"
            )
        if self.config.data.path:
            raise ValueError(
                "--data.path must be empty: this experiment knows the truth of procedural scenes "
                "alone; to train on your own pictures with depth, use a recipe (g3dr)"
            )

    def experiment(self) -> Experiment:
        """The experiment that these options ask for."""
        return Experiment(
            name="g3dr_mini",
            title="G3DR's depth kernel in miniature",
            question=QUESTION,
            arms=G3DR_ARMS,
            references=("plain", "kl"),
            metrics=metrics(),
            prepare=self._prepare,
            evaluate=evaluate,
        )

    def _prepare(self, dry: bool) -> Prepared:
        settings: Settings = {"scenes": self.scenes, "views": self.views, "split": self.split}
        render, size = self.config.model.render, self.config.model.size
        conditions = {
            "held-out scenes": self.scenes,
            "novel views of each": self.views,
            "side of the pictures": f"{size} px",
            "samples per ray": f"{render.n_samples} + {render.n_importance}",
        }
        if not dry:
            conditions["non-flatness of the true depth"] = f"{_true_nfs(self.config, settings):.2f}"
        return Prepared(self.config, settings, conditions)


def held_out(cfg: G3DRConfig, settings: Settings) -> G3DRConfig:
    """The configuration whose ``SceneSet`` is the experiment's, whatever the seed of the run."""
    return replace(
        cfg,
        data=replace(cfg.data, seed=settings["split"]),
        run=replace(
            cfg.run,
            validation_objects=settings["scenes"],
            validation_views=settings["views"],
        ),
    )


def _true_nfs(cfg: G3DRConfig, settings: Settings) -> float:
    from ..evaluation.scene_metrics import non_flatness
    from ..evaluation.scene_validation import SceneSet

    scenes = SceneSet.make(held_out(cfg, settings))
    return float(non_flatness(scenes.distance, cfg.model.camera.depth_range).mean())


def evaluate(model: TriGen, cfg: G3DRConfig, settings: Settings) -> Scores:
    """Held-out scenes at every scale of the densities; novel views at scale 1."""
    from ..evaluation.scene_validation import SceneSet, judge_scenes

    scenes = SceneSet.make(held_out(cfg, settings))
    names = [f"scene {i}" for i in range(settings["scenes"])]
    front = replace(scenes, novel_c2w=None, novel=None, inside=None)
    first = judge_scenes(model, scenes)
    assert first.novel_psnr is not None
    values = {"psnr_novel": first.novel_psnr, "psnr_input": first.psnr}
    for scale in SIGMA_SCALES:
        found = first
        if scale != 1.0:
            found = judge_scenes(model, front, sigma_scale=scale, unscaled=first.pictures)
            assert found.against_unscaled is not None
            values[_key("psnr_unscaled", scale)] = found.against_unscaled
        values[_key("depth", scale)] = found.depth_accuracy
        values[_key("nfs", scale)] = found.non_flatness
    return {name: dict(zip(names, _finite(column), strict=True)) for name, column in values.items()}


def _finite(column: torch.Tensor) -> list[float | None]:
    """NaN, which JSON has not, becomes None."""
    return [float(x) if bool(x.isfinite()) else None for x in column]


def _key(name: str, scale: float) -> str:
    return f"{name}_{scale:g}"
