"""LPIPS with VGG-16 (Zhang et al. 2018, version 0.1), as a loss and as a metric.

The network, its scaling and its calibrated heads are those of the package lpips; the backbone's
weights are torchvision's (ImageNet), from a file or downloaded once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import NetworksConfig
from .libraries import import_lpips
from .pictures import check_pair, to_side
from .weights import WeightsError, read_tensors, take

VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
LEAST_SIDE = 16
"""Pixels; VGG-16 halves a picture four times before the last features that are compared."""
ADVICE = (
    f"LPIPS needs VGG-16's ImageNet weights as torchvision publishes them: fetch {VGG_URL} and "
    "pass --networks.lpips-weights FILE (.pth or safetensors); --networks.perceptual ssim needs "
    "no weights"
)


class Lpips(nn.Module):
    """Perceptual distance of pictures; frozen, always in evaluation mode, always in fp32.

    Args:
        network: ``lpips.LPIPS`` with its weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Lpips:
        """A judge does not learn: evaluation mode, whatever is asked."""
        return super().train(False)

    def forward(
        self,
        pictures: Tensor,
        target: Tensor,
        size: int | None = None,
        layers: Sequence[int] | None = None,
    ) -> Tensor:
        """Distances (N,), 0 for equal pictures; differentiable in ``pictures``.

        Args:
            pictures, target: (N, 3, H, W) in [0, 1], at least 16 x 16.
            size: resize both, which must be square, to this side first, bilinear and antialiased.
                Real3D's evaluation reports LPIPS at 224; distances at different sizes do not
                compare. None: as they are.
            layers: which of the five compared layers count, from 0; None: all (LPIPS itself).
        """
        check_pair(pictures, target, least=LEAST_SIDE if size is None else 1)
        x, y = pictures.float(), target.detach().float()
        if size is not None:
            if size < LEAST_SIDE:
                raise ValueError(f"LPIPS needs a size of at least {LEAST_SIDE}, got {size}")
            x, y = to_side(x, size), to_side(y, size)
        # Features of similar pictures nearly cancel: bf16 would leave noise of the difference.
        with torch.autocast(x.device.type, enabled=False):
            if layers is None:
                return self.network(x, y, normalize=True).flatten()
            _, parts = self.network(x, y, normalize=True, retPerLayer=True)
            return torch.stack([parts[layer].flatten() for layer in layers]).sum(0)


def load_lpips(networks: NetworksConfig, device: torch.device | str) -> Lpips:
    """LPIPS with the backbone in ``networks.lpips_weights``, else torchvision's.

    Raises:
        WeightsError: the weights are missing, damaged, or cannot be fetched.
        ImportError: lpips is not installed; the message names the extra.
    """
    package = import_lpips()
    # On "meta" tensors have no values: whatever the files do not fill cannot be used by mistake.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips uses a deprecated argument
        network = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = package.ScalingLayer()  # constants, not weights
    path = Path(networks.lpips_weights) if networks.lpips_weights else _fetch()
    names = {n: re.sub(r"^slice\d+", "features", n) for n in network.net.state_dict()}
    shapes = {names[n]: t.shape for n, t in network.net.state_dict().items()}
    backbone = take(read_tensors(path, ADVICE), shapes, f"{path} (VGG-16)", ADVICE)
    network.net.load_state_dict({n: backbone[names[n]] for n in names}, assign=True)
    _load_heads(network, Path(str(package.__file__)).parent / "weights" / "v0.1" / "vgg.pth")
    return Lpips(network).to(device)


def _load_heads(network: nn.Module, path: Path) -> None:
    """Fill in the calibrated weight of every channel, which ships with the package."""
    advice = "It ships with lpips: pip install --force-reinstall --no-deps lpips"
    shapes = {n: t.shape for n, t in network.state_dict().items() if re.match(r"lin\d", n)}
    heads = take(read_tensors(path, advice), shapes, f"{path} (LPIPS heads)", advice)
    for name, weight in heads.items():
        module, _, rest = name.partition(".")
        network.get_submodule(module).load_state_dict({rest: weight}, assign=True)


def _fetch() -> Path:
    """torchvision's file in its usual cache, downloaded if it is not there."""
    name = VGG_URL.rpartition("/")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if path.is_file():
        return path
    checksum = name.removesuffix(".pth").rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(VGG_URL, str(path), hash_prefix=checksum)
    # The network's failures come from several libraries; all mean that nothing was fetched.
    except Exception as error:
        raise WeightsError(
            f"VGG-16's weights are not in {path.parent} and could not be downloaded "
            f"({type(error).__name__}: {error}). {ADVICE}"
        ) from error
    return path
