"""The autoencoder's loss: its terms, and each side of the game learning from its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the RGB-D models are made of diffusers' parts")

from fastrecon.config.rgbd import AutoencoderLossConfig, RGBDAutoencoderConfig
from fastrecon.data.rgbd import RGBDBatch
from fastrecon.models.rgbd import RGBDAutoencoder
from fastrecon.objectives.autoencoder import AutoencoderObjective
from fastrecon.perceptual import l1_ssim
from tests.micro_rgbd import autoencoder, autoencoder_run, pictures

STEP = 7


def batch() -> RGBDBatch:
    images, depth = pictures(3)
    return RGBDBatch(images, depth, torch.zeros(3, dtype=torch.long))


def config(**loss: float) -> RGBDAutoencoderConfig:
    cfg = autoencoder_run(Path("unused"))
    return replace(cfg, loss=AutoencoderLossConfig(**({"adversarial_from": 0} | loss)))  # type: ignore[arg-type]


def likelihood(model: RGBDAutoencoder, cfg: RGBDAutoencoderConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, L1 + SSIM + L1 of depth, and the KL term, written out."""
    both = torch.cat([batch().images, batch().depth], 1) * 2 - 1
    found = model.network.encode(both).latent_dist
    noise = AutoencoderObjective(cfg)._noise(found.mean, STEP)
    made = model.network.decode(found.mean + found.std * noise).sample
    shown = (made[:, :3] + 1) / 2
    terms = F.l1_loss(made[:, :3], both[:, :3]) + F.l1_loss(made[:, 3:], both[:, 3:])
    terms = terms + l1_ssim(shown.clamp(0, 1), batch().images).mean()
    return made, terms, found.kl().mean() / (3 * 16 * 16)


def gradients(model: RGBDAutoencoder, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_one_backward_gives_each_side_its_own_gradient() -> None:
    cfg, model = config(), autoencoder().train()
    found = gradients(model, AutoencoderObjective(cfg)(model, batch(), STEP)[0])

    # the textbook's two passes: the generator's with a critic that does not learn ...
    made, terms, kl = likelihood(model, cfg)
    critic = model.critic
    assert critic is not None
    fooled = -critic(made).mean()
    last = model.network.decoder.conv_out.weight
    ratio = (
        torch.autograd.grad(terms, last, retain_graph=True)[0].norm()
        / (torch.autograd.grad(fooled, last, retain_graph=True)[0].norm() + 1e-4)
    ).clamp(0, 1e4)
    generator = gradients(model, terms + 1e-6 * kl + 0.5 * ratio.detach() * fooled)
    # ... and the critic's, on pictures that do not learn
    real = torch.cat([batch().images, batch().depth], 1) * 2 - 1
    hinge = 0.5 * (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(made.detach())).mean())
    judge = gradients(model, hinge)

    assert any(name.startswith("critic.") for name in found)
    for name, value in found.items():
        wanted = (judge if name.startswith("critic.") else generator)[name]
        assert_close(value, wanted, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    assert set(found) == {name for name, _ in model.named_parameters()}
    leaked = {n for n in judge if not n.startswith("critic.")}
    assert not leaked


def test_before_the_warm_up_ends_the_critic_rests() -> None:
    cfg, model = config(adversarial_from=STEP + 1), autoencoder().train()
    loss, metrics = AutoencoderObjective(cfg)(model, batch(), STEP)
    _, terms, kl = likelihood(model, cfg)
    assert_close(loss, terms + 1e-6 * kl)
    assert not any(name.startswith("critic") for name in gradients(model, loss))
    assert "generator" not in metrics


def test_weights() -> None:
    model = autoencoder()
    parts = {}
    for name in ("rgb", "depth", "perceptual", "kl"):
        only = {"rgb": 0.0, "depth": 0.0, "perceptual": 0.0, "kl": 0.0, "adversarial": 0.0}
        cfg = config(**(only | {name: 3.0}))
        loss, metrics = AutoencoderObjective(cfg)(model, batch(), STEP)
        parts[name] = float(metrics[name])
        assert float(loss.detach()) == pytest.approx(3.0 * parts[name], rel=1e-5)
    _, terms, kl = likelihood(model, config())
    known = parts["rgb"] + parts["depth"] + parts["perceptual"]
    assert known == pytest.approx(float(terms.detach()), rel=1e-5)
    assert parts["kl"] == pytest.approx(float(kl.detach()), rel=1e-5)


def test_a_step_draws_the_same_latents_every_time() -> None:
    model, objective = autoencoder(), AutoencoderObjective(config())
    first, again, other = (float(objective(model, batch(), s)[0].detach()) for s in (7, 7, 8))
    assert first == again != other


def test_the_usual_weights() -> None:
    loss = AutoencoderLossConfig()
    assert (loss.rgb, loss.depth, loss.perceptual, loss.kl) == (1.0, 1.0, 1.0, 1e-6)
    assert (loss.adversarial, loss.adversarial_from) == (0.5, 50_000)
