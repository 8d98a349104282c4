"""Every filter at its limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastrecon.curation.filters import REASONS, FilterSettings, Instance, first_reason
from fastrecon.curation.masks import Mask


def box(left: int, top: int, width: int, height: int) -> Mask | None:
    whole = np.zeros((480, 640), bool)
    whole[top : top + height, left : left + width] = True
    return Mask.cut(whole)


GOOD = Instance(1, "chair", 0.3, False, box(10, 10, 120, 80))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"score": 0.29}, "score"),
        ({"score": float("nan")}, "score"),
        ({"crowd": True}, "crowd"),
        ({"mask": None}, "empty_mask"),
        ({"mask": box(10, 10, 119, 80)}, "size"),  # (119 + 80) / 2 = 99.5
        ({"mask": box(9, 10, 120, 80)}, "border"),
        ({"mask": box(10, 9, 120, 80)}, "border"),
        ({"mask": box(511, 10, 120, 80)}, "border"),  # 9 px to the right border
        ({"mask": box(510, 390, 120, 80)}, ""),
        ({"category": "Bus"}, "category"),
        ({"category": None}, "unknown_category"),
        ({"category": ""}, ""),
    ],
)
def test_limits_of_the_paper(change: dict, reason: str) -> None:
    assert first_reason(replace(GOOD, **change), FilterSettings()) == reason
    assert reason == "" or reason in REASONS


def test_limits_can_be_moved() -> None:
    settings = FilterSettings(0.5, 20, 0, ("chair", "table"), 2.0)
    assert first_reason(GOOD, settings) == "score"
    sure = replace(GOOD, score=0.5)
    assert first_reason(sure, settings) == "category"
    thing = replace(sure, category="bus", mask=box(0, 0, 41, 20))
    assert first_reason(thing, settings) == "aspect"
    assert first_reason(replace(thing, mask=box(0, 0, 40, 20)), settings) == ""


@pytest.mark.parametrize(
    "nonsense", [{"min_score": -1}, {"min_scale": 0}, {"min_margin": -1}, {"max_aspect": 0.5}]
)
def test_limits_that_make_no_sense(nonsense: dict) -> None:
    with pytest.raises(ValueError, match="--m"):
        FilterSettings(**nonsense).check()
