"""L1 + 1 - SSIM: arithmetic, scikit-image, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from skimage.metrics import structural_similarity

from fastrecon.config import NetworksConfig
from fastrecon.evaluation.metrics import ssim
from fastrecon.perceptual import build_perceptual, l1_ssim
from fastrecon.perceptual.ssim import ssim_map


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_flat_pictures_by_hand() -> None:
    black, grey = torch.zeros(1, 3, 7, 7), torch.full((1, 3, 7, 7), 0.5)
    # no variance: SSIM = c1 / (0.25 + c1), one window
    expected = 0.5 + 1 - 1e-4 / (0.25 + 1e-4)
    assert l1_ssim(grey, black).item() == pytest.approx(expected, abs=1e-6)
    assert l1_ssim(grey, grey).item() == 0.0


def test_is_l1_and_scikit_images_ssim() -> None:
    x, y = pictures(0, 3, 3, 20, 24), pictures(1, 3, 3, 20, 24)
    y = 0.8 * x + 0.2 * y
    found = l1_ssim(x, y)
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    for i in range(3):
        similarity: Any = structural_similarity(
            x[i].double().numpy(), y[i].double().numpy(), channel_axis=0, data_range=1.0
        )
        l1 = (x[i] - y[i]).abs().mean().item()
        assert found[i].item() == pytest.approx(l1 + 1 - similarity, abs=2e-6)
    assert torch.allclose(found, (x - y).abs().mean((1, 2, 3)) + 1 - ssim(x, y), atol=2e-6)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_single_precision_is_enough_on_flat_pictures(level: float) -> None:
    flat = torch.full((1, 3, 32, 32), level)
    noisy = (flat + 1e-3 * pictures(2, 1, 3, 32, 32)).clamp(0, 1)
    exact = (noisy - flat).double().abs().mean((1, 2, 3)) + 1 - ssim(noisy, flat)
    assert abs(l1_ssim(noisy, flat) - exact).item() < 1e-4


def test_gradient_of_the_map() -> None:
    x, y = (pictures(seed, 1, 2, 8, 9).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(ssim_map, (x, y))


def test_gradient_of_the_distance_is_that_of_its_terms() -> None:
    x, y = pictures(0, 2, 3, 9, 10).requires_grad_(), pictures(1, 2, 3, 9, 10)
    weights = torch.tensor([1.0, -3.0])
    (found,) = torch.autograd.grad(l1_ssim(x, y) @ weights, x)
    (similarity,) = torch.autograd.grad(ssim_map(x, y).mean((1, 2, 3)) @ weights, x)
    l1 = (x - y).sign() * weights[:, None, None, None] / x[0].numel()
    assert torch.allclose(found, l1 - similarity, atol=1e-7)


def test_autocast_takes_no_digits() -> None:
    x, y = pictures(0, 1, 3, 16, 16), pictures(1, 1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = l1_ssim(x, y)
    assert torch.equal(found, l1_ssim(x, y))


def test_a_broken_picture_spoils_only_its_own_distance() -> None:
    x = pictures(0, 3, 3, 8, 8)
    x[1, 0, 3, 3] = float("nan")
    assert l1_ssim(x, pictures(1, 3, 3, 8, 8)).isnan().tolist() == [False, True, False]


def test_errors() -> None:
    judge = build_perceptual(NetworksConfig(perceptual="ssim"), "cpu")
    for x, y, words in (
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), r"picture\[None\]"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8), "same shape"),
        (torch.zeros(1, 3, 6, 8), torch.zeros(1, 3, 6, 8), "at least 7 x 7"),
        (torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1, 3, 8, 8), "divide 8-bit values by 255"),
        (torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), r"\(N, 3, H, W\)"),
    ):
        with pytest.raises(ValueError, match=words):
            judge(x, y)


@pytest.mark.parametrize("name", ["none", "vgg"])
def test_unknown_distances(name: str) -> None:
    with pytest.raises(ValueError, match=r"networks\.perceptual lpips"):
        build_perceptual(NetworksConfig(perceptual=name), "cpu")
