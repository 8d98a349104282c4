"""The PatchGAN critic (Isola et al. 2017, VQGAN): is each patch of an RGB-D picture a real one?"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

SLOPE = 0.2
INIT_STD = 0.02
MAX_MULTIPLE = 8
"""Channels grow to at most so many times the first."""


class Critic(nn.Module):
    """Logits ``(B, 1, h, w)``, one for each overlapping patch; positive says real.

    Args:
        channels: of the pictures, in [-1, 1].
        width: channels of the first convolution.
        layers: convolutions that halve the side.

    Batch norms use the statistics of the batch at hand and keep none: the critic is of use in
    training only.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        before = width
        for k in range(1, layers + 1):
            now = width * min(2**k, MAX_MULTIPLE)
            stride = 2 if k < layers else 1
            parts += [
                nn.Conv2d(before, now, 4, stride, 1, bias=False),
                nn.BatchNorm2d(now, track_running_stats=False),
                nn.LeakyReLU(SLOPE),
            ]
            before = now
        parts.append(nn.Conv2d(before, 1, 4, 1, 1))
        self.net = nn.Sequential(*parts)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, INIT_STD)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, INIT_STD)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)

    def judge(self, pictures: Tensor) -> Tensor:
        """``forward`` whose gradients reach the pictures and not the critic."""
        fixed: Mapping[str, Tensor] = {n: p.detach() for n, p in self.named_parameters()}
        return functional_call(self, dict(fixed), (pictures,))
