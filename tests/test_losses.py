"""Loss terms: arithmetic that a person can do."""

from __future__ import annotations

import math

import pytest
import torch

from fastrecon.losses import (
    clip_similarity_loss,
    depth_l1,
    hardest_view,
    mask_mse,
    plane_tv,
    psnr_from_mse,
    rgb_mse,
)


def test_rgb_mse():
    rgb = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]], requires_grad=True)
    loss = rgb_mse(rgb, torch.zeros(2, 3))
    assert loss.item() == pytest.approx((3 * 0.25 + 1.0) / 6)
    loss.backward()
    assert rgb.grad is not None
    assert torch.allclose(rgb.grad, rgb.detach() * 2 / 6)


def test_mask_mse():
    assert mask_mse(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0])).item() == 0.625


def test_depth_l1_reads_hits_only():
    depth = torch.tensor([2.0, 3.0, 9.0], requires_grad=True)
    target = torch.tensor([1.0, 5.0, float("nan")])
    loss = depth_l1(depth, target, torch.tensor([1.0, 1.0, 0.0]))
    assert loss.item() == 1.5
    loss.backward()
    assert depth.grad is not None
    assert depth.grad.tolist() == [0.5, -0.5, 0.0]


def test_depth_l1_without_a_hit_is_zero_with_zero_gradient():
    depth = torch.ones(4, requires_grad=True)
    loss = depth_l1(depth, torch.zeros(4), torch.zeros(4))
    loss.backward()
    assert loss.item() == 0.0
    assert depth.grad is not None
    assert depth.grad.tolist() == [0.0] * 4


def test_psnr():
    mse = torch.tensor([1.0, 0.1, 0.01, 0.0])
    assert psnr_from_mse(mse).tolist() == pytest.approx([0.0, 10.0, 20.0, 100.0])
    assert psnr_from_mse(torch.tensor(0.25)).item() == pytest.approx(20 * math.log10(2))


@pytest.mark.parametrize("term", [rgb_mse, mask_mse])
def test_shapes_are_not_broadcast(term):
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(1, 3\)"):
        term(torch.zeros(4, 3), torch.zeros(1, 3))


def test_depth_l1_checks_the_mask_too():
    with pytest.raises(ValueError, match="mask"):
        depth_l1(torch.zeros(4), torch.zeros(4), torch.zeros(1))


def test_clip_similarity_is_per_picture():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    loss = clip_similarity_loss(features, target)
    assert loss.tolist() == pytest.approx([-1.0, -0.6, 1.0])
    loss.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, -target)
    with pytest.raises(ValueError, match="features"):
        clip_similarity_loss(features, target[:1])


def test_the_hardest_view_is_the_least_similar():
    similarities = torch.tensor([[0.9, 0.2, 0.5], [-0.1, 0.0, 0.1]])
    assert hardest_view(similarities).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"\(B, m\)"):
        hardest_view(similarities[0])
    with pytest.raises(ValueError, match="m at least 1"):
        hardest_view(torch.zeros(2, 0))


def test_plane_tv_is_rows_plus_columns():
    # one plane in six is 0 2 / 1 3: steps of 1 down and of 2 across
    planes = torch.zeros(1, 3, 2, 2, 2)
    planes[0, 1, 0] = torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    planes.requires_grad_()
    loss = plane_tv(planes)
    assert loss.item() == pytest.approx((1 + 4) / 6)
    loss.backward()
    assert planes.grad is not None
    # the corner 0: d/dx ((1 - x)^2 + (2 - x)^2) over 12 steps each way
    assert planes.grad[0, 1, 0, 0, 0].item() == pytest.approx(-(2 * 1 + 2 * 2) / 12)
    assert plane_tv(torch.full((2, 3, 4, 5, 5), 0.7)).item() == 0
    with pytest.raises(ValueError, match=r"planes\[None\]"):
        plane_tv(planes[0])
