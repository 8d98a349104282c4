"""Flatness and accuracy of depth maps, by hand and by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastrecon.evaluation.scene_metrics import depth_accuracy, non_flatness

RANGE = (4.0, 6.0)


def maps(count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3.8 + 2.4 * torch.rand(count, 7, 5, generator=generator)


def test_flatness_by_hand() -> None:
    flat = torch.full((1, 8, 8), 4.7)
    assert_close(non_flatness(flat, RANGE), torch.ones(1))
    two = flat.clone()
    two[:, :4] = 5.3
    assert_close(non_flatness(two, RANGE), torch.tensor([2.0]))
    every = torch.linspace(4.0, 6.0, 128)[:-1:2].reshape(1, 8, 8) + 1e-3
    assert_close(non_flatness(every, RANGE), torch.tensor([64.0]))
    # three quarters and one quarter
    two[:, :6], two[:, 6:] = 5.3, 4.7
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert_close(non_flatness(two, RANGE), torch.tensor([expected]))


def test_flatness_against_loops() -> None:
    depth = maps()
    expected = []
    for one in depth.flatten(1).tolist():
        counts = [0] * 64
        for d in one:
            counts[min(63, max(0, math.floor((d - 4.0) / 2.0 * 64)))] += 1
        entropy = -sum(c / len(one) * math.log(c / len(one)) for c in counts if c)
        expected.append(math.exp(entropy))
    assert_close(non_flatness(depth, RANGE), torch.tensor(expected), rtol=1e-5, atol=0)


def test_the_range_is_that_of_the_rays_not_of_the_map() -> None:
    # a tenth of the range has a tenth of the bins, however finely it is filled
    narrow = torch.linspace(5.0, 5.2 - 1e-4, 4096).reshape(1, 64, 64)
    assert 6.0 < float(non_flatness(narrow, RANGE)) < 7.0
    # what lies beyond counts in the end bins
    assert_close(
        non_flatness(torch.tensor([[[3.0, 9.0]]]), RANGE),
        non_flatness(torch.tensor([[[4.0, 5.999]]]), RANGE),
    )


def test_accuracy_against_loops() -> None:
    depth, target = maps(seed=1), maps(seed=2)
    expected = []
    for a, b in zip(depth.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        normal = []
        for x in (a, b):
            mean = sum(x) / len(x)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x))
            normal.append([(v - mean) / deviation for v in x])
        expected.append(sum((p - q) ** 2 for p, q in zip(*normal, strict=True)) / len(a))
    assert_close(depth_accuracy(depth, target), torch.tensor(expected))


def test_accuracy_by_hand() -> None:
    depth = maps(1)
    assert_close(depth_accuracy(depth, 2.0 * depth - 3.0), torch.zeros(1), atol=1e-6, rtol=0)
    assert_close(depth_accuracy(depth, -depth), torch.tensor([4.0]))  # correlation -1: 2 + 2
    # correlation r gives 2 - 2 r
    other = maps(1, seed=5)
    r = torch.corrcoef(torch.stack([depth.flatten(), other.flatten()]).double())[0, 1]
    assert_close(depth_accuracy(depth, other), (2 - 2 * r).float()[None])
    flat = torch.full_like(depth, 5.0)
    assert_close(depth_accuracy(flat, depth), torch.tensor([2.0]))
    assert_close(depth_accuracy(flat, flat), torch.tensor([2.0]))


def test_what_is_no_depth_map() -> None:
    with pytest.raises(ValueError, match=r"one map is depth\[None\]"):
        non_flatness(torch.zeros(4, 4), RANGE)
    with pytest.raises(TypeError, match="floating point"):
        non_flatness(torch.zeros(1, 4, 4, dtype=torch.uint8), RANGE)
    with pytest.raises(ValueError, match="same shape"):
        depth_accuracy(torch.rand(1, 4, 4), torch.rand(1, 4, 5))
