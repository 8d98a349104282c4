"""The inception score in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from fastrecon.evaluation.inception_score import inception_score


def test_pictures_that_are_all_alike_score_one() -> None:
    found = inception_score(torch.randn(1, 7).expand(40, -1))
    assert found.mean == pytest.approx(1.0)
    assert found.deviation == pytest.approx(0.0, abs=1e-9)
    assert found.pictures == 40


def test_sure_and_equally_frequent_classes_score_their_number() -> None:
    labels = torch.arange(60) % 6
    sure = 1000.0 * torch.nn.functional.one_hot(labels, 8)
    assert inception_score(sure).mean == pytest.approx(6.0)


def test_two_doubtful_classes() -> None:
    # p = (q, 1 - q) and (1 - q, q) in turn: exp(log 2 - H(q))
    q = 0.8
    rows = torch.tensor([[q, 1 - q], [1 - q, q]]).log()
    entropy = -(q * math.log(q) + (1 - q) * math.log(1 - q))
    shifted = rows.repeat(20, 1) + torch.randn(40, 1)  # a constant per picture changes nothing
    assert inception_score(shifted).mean == pytest.approx(math.exp(math.log(2) - entropy), rel=1e-5)


def test_parts_are_scored_one_by_one() -> None:
    # ten parts of one class each, then one part of all ten
    sure = 1000.0 * torch.eye(10).repeat_interleave(4, 0)
    assert inception_score(sure).mean == pytest.approx(1.0)
    assert inception_score(sure, splits=1).mean == pytest.approx(10.0)
    # scores 1 and 2: mean 1.5, standard deviation 0.5
    parts = torch.cat([sure[:4], sure[::4][:2], sure[::4][:2]])
    found = inception_score(parts, splits=2)
    assert (found.mean, found.deviation) == pytest.approx((1.5, 0.5))


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (torch.zeros(9, 5), "each of the 10 splits"),
        (torch.zeros(20), r"got \(20,\)"),
        (torch.full((20, 3), math.nan), "not finite"),
    ],
)
def test_what_has_no_score(logits: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        inception_score(logits)
