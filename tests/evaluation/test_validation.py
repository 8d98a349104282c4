"""Scores of held-out views: groups, gain, interval."""

from __future__ import annotations

import pytest
import torch

from fastrecon.evaluation.validation import HeldOut, bootstrap_interval, summarise


def held_out(truth: torch.Tensor, angles: list[list[float]]) -> HeldOut:
    n, views = truth.shape[:2]
    return HeldOut(
        images=torch.zeros(n, 3, 8, 8),
        c2w=torch.eye(4).expand(n, views, 4, 4),
        pictures=truth,
        angles=torch.tensor(angles),
        baseline=torch.full((3, 8, 8), 0.1),
        fov_deg=torch.full((n, views), 40.0),
    )


def test_near_and_far_views_are_scored_apart_and_the_input_view_not_at_all():
    truth = torch.zeros(2, 4, 3, 8, 8)
    rendered = truth.clone()
    rendered[:, 0] = 1.0  # the input view: would be 0 dB
    rendered[:, 1:3] = 0.01  # near: 40 dB
    rendered[:, 3] = 0.1  # far: 20 dB, as the mean image
    result = held_out(truth, [[0.0, 10.0, 45.0, 46.0]] * 2).score(rendered)
    assert (result.near.pictures, result.far.pictures, result.all.pictures) == (4, 2, 6)
    assert result.near.psnr == pytest.approx(40.0, abs=1e-3)
    assert result.near.gain == pytest.approx(20.0, abs=1e-3)
    assert result.far.psnr == pytest.approx(20.0, abs=1e-3)
    assert result.far.gain == pytest.approx(0.0, abs=1e-3)
    assert result.all.psnr == pytest.approx((4 * 40 + 2 * 20) / 6, abs=1e-3)
    assert result.all.mean_image_psnr == pytest.approx(20.0, abs=1e-3)
    # both objects are alike, so there is nothing uncertain about the mean
    assert result.all.gain_low == pytest.approx(result.all.gain, abs=1e-3)
    assert result.all.gain_high == pytest.approx(result.all.gain, abs=1e-3)
    assert (result.objects, result.size) == (2, 8)


def test_an_empty_group_is_reported_as_empty():
    truth = torch.zeros(1, 2, 3, 8, 8)
    result = held_out(truth, [[10.0, 20.0]]).score(truth)
    assert result.far.pictures == 0
    assert not any(name.endswith("_far") for name in result.scalars())
    assert "far" in result.table()


def test_interval_is_over_objects_and_close_to_the_normal_one():
    gains = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    gains += 2 * torch.randn(400, 1, generator=torch.Generator().manual_seed(1)).double()
    sums, counts = gains.sum(1), torch.full((400,), 3.0, dtype=torch.double)
    low, high = bootstrap_interval(sums, counts)
    mean, error = gains.mean(), gains.mean(1).std() / 20
    assert low == pytest.approx(float(mean - 1.96 * error), abs=0.03)
    assert high == pytest.approx(float(mean + 1.96 * error), abs=0.03)
    assert bootstrap_interval(sums, counts) == (low, high)


def test_objects_weigh_by_their_pictures():
    values = torch.zeros(3, 2, 2)
    values[0] = torch.tensor([[1.0, 2.0], [6.0, 50.0]])
    chosen = torch.tensor([[True, True], [True, False]])
    scores = summarise(values, chosen)
    assert (scores.pictures, scores.psnr, scores.gain) == (3, 3.0, 3.0)
