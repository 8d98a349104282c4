"""Training the RGB-D autoencoder (Esser et al. 2021, Rombach et al. 2022; four channels here).

The critic is part of the model, and one backward pass gives each side its own gradient: the
generator is judged by the critic with detached weights, the critic learns from detached pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.rgbd import RGBDAutoencoderConfig
from ..data.rgbd import RGBDBatch
from ..losses import psnr_from_mse
from ..models.rgbd import RGBDAutoencoder
from ..perceptual import build_perceptual
from .supervised import render_seed

LARGEST_RATIO = 1e4
"""Of the gradients of the other terms to the adversarial one."""
RATIO_EPS = 1e-4
_LATENTS = 1  # a random stream


class AutoencoderObjective:
    """The loss of a batch of RGB-D pictures.

    Args:
        cfg: ``cfg.loss`` has the weights, ``cfg.networks`` the judge.
        device: where the judge is to work.

    Raises:
        WeightsError, ImportError: the judge cannot be had.
    """

    def __init__(self, cfg: RGBDAutoencoderConfig, device: torch.device | str = "cpu") -> None:
        self.loss, self.seed = cfg.loss, cfg.run.seed
        self.bf16 = cfg.optim.precision == "bf16"
        self.perceptual = build_perceptual(cfg.networks, device) if cfg.loss.perceptual else None

    def __call__(
        self, model: RGBDAutoencoder, batch: RGBDBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar with gradient) and detached scalars to log, without a host sync."""
        target = model.joined(batch.images, batch.depth)
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self.bf16):
            posterior = model.posterior(target)
            found = model.reconstruct(posterior.sample(self._noise(posterior.mean, step)))
        terms = self._terms(found.float(), target)
        weights = {"rgb": self.loss.rgb, "depth": self.loss.depth}
        weights["perceptual"] = self.loss.perceptual
        likelihood = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        # sums over a picture in both, so that the KL's weight is the field's
        terms["kl"] = posterior.kl().mean() / target[0, :3].numel()
        loss = likelihood + self.loss.kl * terms["kl"]
        if self.loss.adversarial and step >= self.loss.adversarial_from:
            more, adversarial = self._adversarial(model, found, target, likelihood)
            loss, terms = loss + more, terms | adversarial
        error = 0.5 * (found.detach().float() - target)
        metrics = (
            terms
            | {
                "loss": likelihood,  # without the game, whose value says nothing about progress
                "psnr": psnr_from_mse(error[:, :3].square().mean()),
                "depth_error": error[:, 3:].abs().mean(),
            }
        )
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _noise(self, like: Tensor, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(render_seed(self.seed, step, _LATENTS))
        return torch.randn(like.shape, generator=generator).to(like.device, non_blocking=True)

    def _terms(self, found: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What both pictures are compared by, (B, 4, S, S) in [-1, 1]."""
        error = (found - target).abs()
        terms = {"rgb": error[:, :3].mean(), "depth": error[:, 3:].mean()}
        if self.perceptual is not None:
            shown, wanted = (0.5 * x[:, :3] + 0.5 for x in (found, target))
            terms["perceptual"] = self.perceptual(shown.clamp(0.0, 1.0), wanted).mean()
        return terms

    def _adversarial(
        self, model: RGBDAutoencoder, found: Tensor, target: Tensor, likelihood: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's and the critic's terms, summed; the weight of the first is adaptive."""
        critic = model.critic
        assert critic is not None  # see check_autoencoder_run
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self.bf16):
            fooled = -critic.judge(found).float().mean()
            real, fake = critic(target).float(), critic(found.detach()).float()
        ratio = gradient_ratio(likelihood, fooled, model.last_layer)
        hinge = 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
        loss = self.loss.adversarial * ratio * fooled + hinge
        return loss, {
            "generator": fooled,
            "critic": hinge,
            "critic_real": real.mean(),
            "critic_fake": fake.mean(),
            "adversarial_ratio": ratio,
        }


def gradient_ratio(likelihood: Tensor, adversarial: Tensor, weight: Tensor) -> Tensor:
    """How much larger one term's gradient is than the other's at ``weight`` (Esser et al., Eq. 7).

    With it, the adversarial term is as loud as the other ones whatever the critic's scale.
    """
    known, fooled = (
        torch.autograd.grad(term, weight, retain_graph=True)[0].norm()
        for term in (likelihood, adversarial)
    )
    return (known / (fooled + RATIO_EPS)).clamp(0.0, LARGEST_RATIO).detach()
