"""How good is a model on objects that it never saw, from sides that it was not shown?

A single picture says little about the far side, and a plain average of the training pictures is
already a decent guess. So views near the input's and views far from it are reported apart, each
beside the score of that mean image on the very same views; the gain over it is what was learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import camera_rays
from ..config import Config
from ..data.sources import mean_image, validation_set
from ..models.lrm import LRM
from ..objectives.supervised import encode
from .metrics import psnr, ssim

NEAR_DEG = 45.0
"""Views at most so far from the input view are near."""
SAME_VIEW_DEG = 0.5
"""A view closer than this is the input view again, which is no novel view: not scored."""
RESAMPLES = 2000
"""Bootstrap resamples; the interval's ends move by less than 0.01 dB beyond."""


@dataclass(frozen=True)
class Scores:
    """Means over the pictures of one group of views."""

    pictures: int
    psnr: float
    """dB."""
    ssim: float
    mean_image_psnr: float
    """What the mean image scores on the same pictures, dB."""
    gain: float
    """``psnr - mean_image_psnr``, averaged over pictures, dB."""
    gain_low: float
    gain_high: float
    """95% bootstrap interval of the gain over *objects*: views of one object hang together."""


@dataclass(frozen=True)
class Validation:
    """Held-out novel views: near the input view (at most 45 degrees), far from it, and all."""

    objects: int
    size: int
    """Side of the pictures, pixels."""
    near: Scores
    far: Scores
    all: Scores

    def scalars(self) -> dict[str, float]:
        """Flat numbers for logs: ``psnr_near``, ``gain_all``, ..."""
        groups = {"near": self.near, "far": self.far, "all": self.all}
        return {
            f"{field}_{name}": getattr(scores, field)
            for name, scores in groups.items()
            for field in ("psnr", "ssim", "mean_image_psnr", "gain")
            if scores.pictures
        }

    def table(self) -> str:
        """The result for a terminal."""
        lines = ["views  pictures  mean image     PSNR    SSIM   gain [95% interval]"]
        for name, s in {"near": self.near, "far": self.far, "all": self.all}.items():
            lines.append(
                f"{name:5s}  {s.pictures:8d}  {s.mean_image_psnr:7.2f} dB  {s.psnr:5.2f} dB"
                f"  {s.ssim:.3f}  {s.gain:+.2f} dB [{s.gain_low:+.2f}, {s.gain_high:+.2f}]"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class HeldOut:
    """The validation set of a configuration, on the CPU."""

    images: Tensor  # (n, 3, S, S) inputs on grey
    c2w: Tensor  # (n, V, 4, 4)
    pictures: Tensor  # (n, V, 3, H, W) on white
    angles: Tensor  # (n, V) degrees between each view's direction and the input view's
    baseline: Tensor  # (3, H, W) the mean image
    fov_deg: Tensor  # (n, V)
    cameras: Tensor | None = None  # (n, 16) the input cameras, for models that are told

    @classmethod
    def make(cls, cfg: Config) -> HeldOut:
        """``cfg.run.validation_*`` objects, views and pixels, the same in every run."""
        run = cfg.run
        images, c2w, pictures, angles, fov_deg, cameras = validation_set(
            cfg, run.validation_objects, run.validation_views, run.validation_size
        )
        baseline = mean_image(cfg, run.validation_size)
        return cls(images, c2w, pictures, angles, baseline, fov_deg, cameras)

    @torch.no_grad()
    def render(self, model: LRM, *, bf16: bool = True) -> Tensor:
        """The model's pictures ``(n, V, 3, H, W)`` of the held-out views, on the CPU.

        One object at a time, so that memory depends on neither the set's nor the batch's size.
        """
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        height, width = self.pictures.shape[-2:]
        rendered = []
        for i in range(len(self.images)):
            image, c2w, fov_deg = (
                x[i : i + 1].to(device) for x in (self.images, self.c2w, self.fov_deg)
            )
            told = None if self.cameras is None else self.cameras[i : i + 1].to(device)
            planes = encode(model, image, told, bf16=bf16)
            rays_o, rays_d = camera_rays(c2w, height, width, fov_deg)
            rendered.append(model.render(planes, rays_o, rays_d).rgb.cpu())
        model.train(was_training)
        return torch.cat(rendered).movedim(-1, -3)

    def score(self, rendered: Tensor) -> Validation:
        """Compare pictures ``(n, V, 3, H, W)`` in [0, 1] with the truth."""
        guess = self.baseline.expand_as(self.pictures)
        truth = self.pictures
        values = torch.stack([psnr(rendered, truth), ssim(rendered, truth), psnr(guess, truth)])
        novel = self.angles >= SAME_VIEW_DEG
        near = self.angles <= NEAR_DEG
        return Validation(
            objects=len(self.images),
            size=self.pictures.shape[-1],
            near=summarise(values, novel & near),
            far=summarise(values, novel & ~near),
            all=summarise(values, novel),
        )


def validate(model: LRM, cfg: Config) -> Validation:
    """Score a model on the held-out views of ``cfg``; see ``Validation``."""
    held_out = HeldOut.make(cfg)
    return held_out.score(held_out.render(model, bf16=cfg.optim.precision == "bf16"))


def summarise(values: Tensor, chosen: Tensor) -> Scores:
    """Average PSNR, SSIM and baseline PSNR ``values (3, n, V)`` where ``chosen (n, V)`` is true.

    Without a chosen picture every score is 0.
    """
    count = int(chosen.sum())
    if not count:
        return Scores(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ours, similarity, baseline = (float(v[chosen].mean()) for v in values)
    gains = torch.where(chosen, values[0] - values[2], 0.0).double().sum(1)
    low, high = bootstrap_interval(gains, chosen.double().sum(1))
    return Scores(count, ours, similarity, baseline, ours - baseline, low, high)


def bootstrap_interval(sums: Tensor, counts: Tensor) -> tuple[float, float]:
    """95% percentile interval of ``sum(sums) / sum(counts)`` over resampled objects ``(n,)``.

    Seeded: the same numbers give the same interval.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=generator)
    totals = counts[drawn].sum(1)
    means = (sums[drawn].sum(1) / totals)[totals > 0]
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high
