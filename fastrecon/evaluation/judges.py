"""What judges pictures: PSNR and SSIM always, networks as far as their weights can be had.

What cannot be computed is named with its reason; nothing stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import NetworksConfig
from .fid import Extractor, load_inception
from .metrics import psnr, ssim

PERCEPTUAL_NAMES = {"lpips": "LPIPS (VGG-16)", "ssim": "L1 + 1 - SSIM"}
BATCH = 16
"""Pictures that a network is given at a time."""

Compare = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Judges:
    """Metrics, and the names under which they are reported."""

    perceptual: Compare | None = None
    perceptual_name: str = PERCEPTUAL_NAMES["lpips"]
    clip: Callable[[Tensor], Tensor] | None = None
    inception: Extractor | None = None
    device: torch.device | str = "cpu"
    absent: dict[str, str] = field(default_factory=dict)
    """Metrics that are not computed, and why."""

    @torch.no_grad()
    def compare(self, pictures: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Metrics ``(N,)`` of pictures against targets, both ``(N, 3, H, W)`` in [0, 1]."""
        values = {"psnr": psnr(pictures, target), "ssim": ssim(pictures, target)}
        if self.perceptual is not None:
            values["perceptual"] = self._perceptual(pictures, target)
        return values

    @torch.no_grad()
    def compare_meaning(self, pictures: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """Semantic metrics ``(N,)`` of views ``(N, 3, H, W)`` against one picture ``(3, H, W)``."""
        values = {}
        if self.perceptual is not None:
            values["perceptual"] = self._perceptual(pictures, reference.expand_as(pictures))
        if self.clip is not None:
            encode = self.clip
            parts = torch.cat([reference[None], pictures]).split(BATCH)
            features = torch.cat([encode(x.to(self.device)).float().cpu() for x in parts])
            values["clip"] = features[1:] @ features[0]
        return values

    def _perceptual(self, pictures: Tensor, target: Tensor) -> Tensor:
        assert self.perceptual is not None
        pairs = zip(pictures.split(BATCH), target.split(BATCH), strict=True)
        found = [self.perceptual(x.to(self.device), y.to(self.device)) for x, y in pairs]
        return torch.cat(found).float().cpu()


def load_judges(
    networks: NetworksConfig, inception_weights: str, device: torch.device | str, semantic: bool
) -> Judges:
    """The judges that ``networks`` names; ``networks.perceptual`` "none" leaves that metric out.

    Args:
        inception_weights: a file, for FID; if empty, there is no FID.
        semantic: whether CLIP and FID are wanted.

    Raises:
        WeightsError, FidError, ImportError: a file that is named cannot be used. What would have
            to be downloaded and cannot is only noted in ``absent``.
    """
    judges = Judges(device=device)
    judges.perceptual_name = PERCEPTUAL_NAMES.get(networks.perceptual, PERCEPTUAL_NAMES["lpips"])
    if networks.perceptual == "none":
        judges.absent[judges.perceptual_name] = "--perceptual none"
    else:
        named = networks.perceptual == "lpips" and bool(networks.lpips_weights)
        with _noted(judges, judges.perceptual_name, named):
            from ..perceptual import build_perceptual

            judges.perceptual = build_perceptual(networks, torch.device(device))
    if inception_weights:
        judges.inception = load_inception(inception_weights, device)
    if not semantic:
        return judges
    with _noted(judges, "CLIP similarity", bool(networks.clip_weights)):
        from ..perceptual import load_clip

        judges.clip = load_clip(networks, torch.device(device))
    if not inception_weights:
        judges.absent["FID"] = "it needs --inception-weights, a file that nothing replaces"
    return judges


@contextmanager
def _noted(judges: Judges, name: str, named: bool) -> Iterator[None]:
    """Note what is missing instead of raising, unless the user named the file."""
    from ..perceptual import WeightsError

    try:
        yield
    except (WeightsError, ImportError, OSError) as error:
        if named:
            raise
        judges.absent[name] = str(error).replace("--networks.", "--")  # the training's option
