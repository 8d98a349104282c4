"""PSNR by hand, SSIM against scikit-image."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from fastrecon.evaluation.metrics import psnr, ssim


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_per_picture():
    target = torch.zeros(2, 2, 3, 4, 4)
    off = target.clone()
    off[0, 1] = 0.1
    off[1, 0, 0] = 0.3  # one channel of three: mean square 0.03
    assert psnr(off, target).flatten().tolist() == pytest.approx(
        [100.0, 20.0, 15.2288, 100.0], abs=1e-4
    )


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("size", [(7, 7), (16, 24)])
def test_ssim_is_that_of_scikit_image(noise, size):
    smooth = torch.linspace(0, 1, size[0] * size[1]).reshape(1, 1, *size).repeat(3, 3, 1, 1)
    noisy = (smooth + noise * (pictures(1, 3, 3, *size) - 0.5)).clamp(0, 1)
    ours = ssim(noisy, smooth)
    assert ours.shape == (3,)
    for i in range(3):
        expected = structural_similarity(
            noisy[i].double().numpy(), smooth[i].double().numpy(), channel_axis=0, data_range=1.0
        )
        assert ours[i].item() == pytest.approx(expected, abs=1e-6)


def test_ssim_keeps_leading_dimensions():
    x = pictures(0, 2, 5, 3, 9, 9)
    assert torch.equal(ssim(x, x), torch.ones(2, 5))
    assert ssim(x[0, 0], x[0, 0]).shape == ()


def test_errors():
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="at least 7 x 7"):
        ssim(torch.zeros(3, 6, 8), torch.zeros(3, 6, 8))
