"""Means and intervals over objects."""

from __future__ import annotations

import pytest
import torch

from fastrecon.evaluation.estimates import estimate


def test_only_chosen_values_count() -> None:
    values = torch.tensor([[1.0, 3.0], [8.0, torch.nan]])
    chosen = torch.tensor([[True, True], [True, False]])
    found = estimate(values, chosen)
    assert found is not None
    assert (found.mean, found.count, found.objects) == (4.0, 3, 2)
    # resampled objects: the first twice, the second twice, or one each
    assert (found.low, found.high) == (2.0, 8.0)


def test_objects_without_a_chosen_value_are_not_counted() -> None:
    found = estimate(torch.ones(3, 1), torch.tensor([[True], [False], [True]]))
    assert found is not None
    assert (found.mean, found.low, found.high, found.objects) == (1.0, 1.0, 1.0, 2)


def test_nothing_chosen_is_no_estimate() -> None:
    assert estimate(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) is None


@pytest.mark.parametrize(("signed", "text"), [(False, "1.00 [1.00, 1.00]"), (True, "+1.00 [")])
def test_text(signed: bool, text: str) -> None:
    found = estimate(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))
    assert found is not None
    assert found.text(2, signed).startswith(text)
