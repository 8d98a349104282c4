"""The diffusion's loss: the formula, the share of dropped labels, who learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the RGB-D models are made of diffusers' parts")

from fastrecon.config.rgbd import DiffusionLossConfig, RGBDDiffusionConfig
from fastrecon.data.rgbd import RGBDBatch
from fastrecon.objectives.diffusion import DiffusionObjective
from tests.micro_rgbd import diffusion, diffusion_run, pictures


def config(dropout: float = 0.1) -> RGBDDiffusionConfig:
    loss = DiffusionLossConfig(label_dropout=dropout)
    return replace(diffusion_run(Path("unused"), "unused"), loss=loss)


def batch() -> RGBDBatch:
    images, depth = pictures(3)
    return RGBDBatch(images, depth, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_formula(dropout: float) -> None:
    model, objective = diffusion(), DiffusionObjective(config(dropout))
    loss, metrics = objective(model, batch(), 4)
    drawn = objective.draws(3, 4)
    x = model.autoencoder.encode(batch().images, batch().depth, drawn.posterior) / 0.7
    a = model.schedule.alphas_cumprod[drawn.steps][:, None, None, None]
    noisy = a.sqrt() * x + (1 - a).sqrt() * drawn.noise
    labels = torch.where(drawn.dropped, torch.tensor(3), batch().labels)
    found = model.denoiser.network(noisy, drawn.steps, class_labels=labels).sample
    assert_close(loss, F.mse_loss(found, drawn.noise), rtol=1e-4, atol=1e-5)
    assert_close(metrics["loss"], loss.detach())


def test_only_the_denoiser_learns() -> None:
    model = diffusion().train()
    DiffusionObjective(config())(model, batch(), 0)[0].backward()
    learning = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert learning == {"denoiser"}


def test_the_share_of_dropped_labels_and_the_spread_of_steps() -> None:
    drawn = DiffusionObjective(config(0.15)).draws(20_000, 0)
    # four standard deviations of a mean of 20,000
    assert float(drawn.dropped.float().mean()) == pytest.approx(0.15, abs=0.0101)
    assert float(drawn.steps.float().mean()) == pytest.approx(499.5, abs=8.2)
    assert (int(drawn.steps.min()), int(drawn.steps.max())) == (0, 999)
    assert float(drawn.noise.std()) == pytest.approx(1.0, abs=0.01)
    assert float((drawn.noise * drawn.posterior).mean()) == pytest.approx(0.0, abs=0.01)


def test_draws_are_a_function_of_seed_and_step() -> None:
    cfg = config()
    other = replace(cfg, run=replace(cfg.run, seed=1))
    first, again = (DiffusionObjective(cfg).draws(2, 5) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert_close(a, b, rtol=0, atol=0)
    for changed in (DiffusionObjective(cfg).draws(2, 6), DiffusionObjective(other).draws(2, 5)):
        assert not torch.equal(changed.noise, first.noise)
