"""Weights made up on the spot, in the layouts that other projects publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from fastrecon.perceptual.libraries import import_lpips, import_open_clip
from tests.perceptual.small import SMALL


def _installed(load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def lpips() -> ModuleType:
    """The package, or a skip that says why not."""
    return _installed(import_lpips)


@pytest.fixture(scope="session")
def open_clip() -> ModuleType:
    """The package, or a skip that says why not."""
    return _installed(import_open_clip)


@pytest.fixture(scope="session")
def vgg(lpips: ModuleType) -> dict[str, Tensor]:
    """A random VGG-16 under torchvision's names, without the classifier that LPIPS never reads."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        features = vgg16().features
    features.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, values in features.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(values)
        else:
            nn.init.normal_(values, std=0.1)
    return features.state_dict(prefix="features.")


@pytest.fixture(scope="session")
def vgg_file(vgg: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(vgg, path)
    return path


@pytest.fixture(scope="session")
def small_clip(open_clip: ModuleType) -> nn.Module:
    """A whole random CLIP, text and all, as open_clip builds OpenAI's: with QuickGELU."""
    torch.manual_seed(0)
    vision = {
        "image_size": SMALL.image_size,
        "patch_size": SMALL.patch_size,
        "width": SMALL.width,
        "layers": SMALL.layers,
    }
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
    model = open_clip.model.CLIP(SMALL.features, vision, text, quick_gelu=True)
    return model.eval()
