"""The supervised loss: weighted terms of one rendering, and what each of them moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastrecon import perceptual
from fastrecon.config import Config, DataConfig, LossConfig, NetworksConfig, OptimConfig
from fastrecon.data.batches import Batch
from fastrecon.data.stream import procedural_batch
from fastrecon.losses import depth_l1, mask_mse, rgb_mse
from fastrecon.models.lrm import LRM
from fastrecon.objectives import Supervised
from fastrecon.objectives.supervised import TERMS, encode, render_seed
from tests.micro import micro_config


def config(**weights: float) -> Config:
    return Config(
        model=micro_config(),
        data=DataConfig(views=2, rays_per_view=12),
        loss=replace(LossConfig(0.0, 0.0, 0.0), **weights),
        optim=OptimConfig(precision="fp32"),
    )


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    rays_d = torch.randn(2, 2, 12, 3, generator=generator)
    rays_o = torch.tensor([1.9, 0.0, 0.0]).expand(2, 2, 12, 3)
    aims = 0.5 * torch.nn.functional.normalize(rays_d, dim=-1)
    mask = (torch.rand(2, 2, 12, generator=generator) < 0.5).float()
    return Batch(
        images=torch.rand(2, 3, 16, 16, generator=generator),
        rays_o=rays_o,
        rays_d=torch.nn.functional.normalize(aims - rays_o, dim=-1),
        rgb=torch.rand(2, 2, 12, 3, generator=generator),
        mask=mask,
        depth=1.5 * mask,
    )


@pytest.fixture(scope="module")
def model() -> LRM:
    torch.manual_seed(0)
    return LRM(micro_config())


def gradients(model: LRM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def test_every_weight_has_a_term() -> None:
    assert {*TERMS, "perceptual", "tv"} == set(vars(LossConfig()))


def test_the_loss_is_the_weighted_sum_of_its_terms(model: LRM, batch: Batch) -> None:
    objective = Supervised(config(rgb=2.0, mask=0.5, depth=0.25))
    loss, metrics = objective(model, batch, 3)
    planes = encode(model, batch.images, bf16=False)
    rendering = model.render(
        planes,
        batch.rays_o,
        batch.rays_d,
        settings=objective.settings,
        seed=render_seed(0, 3),
    )
    rgb, mask = rgb_mse(rendering.rgb, batch.rgb), mask_mse(rendering.opacity, batch.mask)
    depth = depth_l1(rendering.depth, batch.depth, batch.mask)
    torch.testing.assert_close(loss, 2 * rgb + 0.5 * mask + 0.25 * depth)
    assert set(metrics) == {"loss", "loss_rgb", "loss_mask", "loss_depth", "psnr"}
    assert not any(value.requires_grad for value in metrics.values())
    torch.testing.assert_close(metrics["loss_depth"], depth.detach())
    torch.testing.assert_close(metrics["psnr"], -10 * torch.log10(rgb.detach()))


def test_a_term_without_weight_is_not_computed(model: LRM, batch: Batch) -> None:
    _, metrics = Supervised(config(mask=1.0))(model, batch, 0)
    assert set(metrics) == {"loss", "loss_mask", "psnr"}


def test_every_term_changes_the_gradients(model: LRM, batch: Batch) -> None:
    base = gradients(model, Supervised(config(rgb=1.0))(model, batch, 0)[0])
    for name in set(TERMS) - {"rgb"}:
        more = gradients(model, Supervised(config(rgb=1.0, **{name: 1.0}))(model, batch, 0)[0])
        assert set(more) == set(base)
        moved = [n for n in base if not torch.allclose(base[n], more[n], rtol=1e-3, atol=0)]
        assert len(moved) > 0.5 * len(base), name


def test_steps_have_seeds_of_their_own(model: LRM, batch: Batch) -> None:
    objective = Supervised(config(rgb=1.0))
    assert objective.settings.stratified, "samples are jittered unless the data says no"
    same = [float(objective(model, batch, step)[0].detach()) for step in (4, 4, 5)]
    assert same[0] == same[1] != same[2]
    seeds = {render_seed(seed, step) for seed in range(3) for step in (0, 1, 10**6)}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in (*seeds, render_seed(2**62, 7)))


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="every loss weight is 0"):
        Supervised(config())


# ----------------------------------------------------------------------------------- whole pictures


@pytest.fixture(scope="module")
def picture_config() -> Config:
    cfg = config(rgb=1.0, perceptual=0.5)
    return replace(
        cfg,
        data=DataConfig(seed=1, views=2, picture_size=8, max_parts=2, jitter=False),
        networks=NetworksConfig(perceptual="ssim"),
        optim=replace(cfg.optim, batch_size=3),
    )


def test_the_perceptual_term_judges_every_picture_as_it_is_seen(
    model: LRM, picture_config: Config
) -> None:
    """Eq. 1 with SSIM for LPIPS: the mean over objects and views, one picture at a time."""
    batch = procedural_batch(picture_config, 0)
    loss, metrics = Supervised(picture_config)(model.train(), batch, 0)
    rgb, judged = [], []
    for b in range(3):
        planes = model.encode(batch.images[b : b + 1])
        for v in range(2):
            seen = model.render(planes, batch.rays_o[b : b + 1, v], batch.rays_d[b : b + 1, v])
            rgb.append((seen.rgb[0] - batch.rgb[b, v]).square().mean())
            picture, target = (torch.empty(1, 3, 8, 8) for _ in range(2))
            for row in range(8):
                for column in range(8):
                    picture[0, :, row, column] = seen.rgb[0, 8 * row + column]
                    target[0, :, row, column] = batch.rgb[b, v, 8 * row + column]
            judged.append(perceptual.l1_ssim(picture, target)[0])
    torch.testing.assert_close(metrics["loss_perceptual"], torch.stack(judged).mean().detach())
    expected = torch.stack(rgb).mean() + 0.5 * torch.stack(judged).mean()
    torch.testing.assert_close(loss, expected)
    found, wanted = gradients(model, loss), gradients(model, expected)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_the_perceptual_network_is_the_configured_one(
    picture_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(perceptual, "build_perceptual", lambda *args: asked.append(args))
    Supervised(picture_config, "meta")
    Supervised(replace(picture_config, loss=LossConfig()), "meta")
    assert asked == [(picture_config.networks, "meta")]
