"""Paired differences, verdicts and their figure, on numbers that a person can check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastrecon.evaluation.estimates import Estimate
from fastrecon.experiments.experiment import Metric, Scores
from fastrecon.experiments.figure import bars, nice_step
from fastrecon.experiments.table import Row, Table, markdown, verdict
from tests.experiments import fake

OBJECTS = [f"o{i}" for i in range(20)]
CONDITIONS = {
    "torch": "2",
    "python": "3",
    "commit": "c",
    "machine": "m",
    "threads": 1,
    "parameters": 5,
}


def scores(shift: float, noise: float = 0.0, chamfer: float | None = 0.5) -> Scores:
    psnr = {o: 10.0 + i + shift + noise * (-1) ** i for i, o in enumerate(OBJECTS)}
    return {"psnr": psnr, "chamfer": dict.fromkeys(OBJECTS, chamfer)}


def result(arm: str, seed: int | None, found: Scores) -> dict:
    config = {"optim": {"steps": 2, "batch_size": 1}}
    seconds = {"training": 1.0, "evaluation": 0.5}
    return {
        "arm": arm,
        "seed": seed,
        "scores": found,
        "config": config,
        "seconds": seconds,
        "conditions": CONDITIONS,
    }


def tabulated(*results: dict) -> Table:
    return Table.of(fake.experiment(fake.config(Path("x"))), results, {"photographs": 3})


def row(table: Table, metric: str, arm: str) -> Row:
    return next(r for r in table.rows if (r.metric, r.arm) == (metric, arm))


def test_differences_are_paired_by_object_and_seed() -> None:
    table = tabulated(
        result("start", None, scores(-1.0)),
        result("slow", 0, scores(0.0)),
        result("slow", 1, scores(4.0)),
        result("fast", 0, scores(0.5)),
        result("fast", 1, scores(4.7)),
    )
    fast = row(table, "psnr", "fast")
    assert fast.mean.mean == pytest.approx(19.5 + 2.6)
    assert fast.by_seed == pytest.approx({"0": 20.0, "1": 24.2})
    assert fast.spread == pytest.approx(4.2 / 2**0.5)
    over_slow, over_start = fast.over["slow"], fast.over["start"]
    assert over_slow is not None
    assert over_start is not None
    # the same for every object, so nothing is left to resample
    assert [over_slow.estimate.low, over_slow.estimate.high] == pytest.approx([0.6, 0.6])
    assert over_slow.by_seed == pytest.approx({0: 0.5, 1: 0.7})
    assert over_slow.spread == pytest.approx(0.2 / 2**0.5)
    assert over_slow.verdict == "better"
    # what is not trained is compared with every seed
    assert over_start.by_seed == pytest.approx({0: 1.5, 1: 5.7})
    start = row(table, "psnr", "start").over
    assert "start" not in start
    assert start["slow"] is not None
    assert start["slow"].verdict == "worse"


def test_only_seeds_and_objects_that_both_have_are_compared() -> None:
    partly = scores(1.0)
    partly["psnr"] = dict(list(partly["psnr"].items())[:5])
    partly["chamfer"]["o0"] = None
    table = tabulated(
        result("slow", 0, scores(0.0)),
        result("slow", 1, scores(9.0)),
        result("fast", 0, partly),
    )
    over = row(table, "psnr", "fast").over["slow"]
    assert over is not None
    assert (over.estimate.objects, over.by_seed, over.spread) == (5, {0: 1.0}, None)
    assert row(table, "psnr", "fast").over["start"] is None
    assert row(table, "chamfer", "fast").absent == 1
    text = markdown(table, fake.experiment(fake.config(Path("x"))))
    assert "Chamfer, fast: no value for 1 of 20 models" in text


def test_an_interval_with_zero_is_inconclusive_and_lower_can_be_better() -> None:
    table = tabulated(result("slow", 0, scores(0.0)), result("fast", 0, scores(0.1, noise=1.0)))
    noisy = row(table, "psnr", "fast").over["slow"]
    assert noisy is not None
    assert noisy.estimate.low < 0 < noisy.estimate.high
    assert noisy.verdict == "inconclusive"
    distance = Metric("chamfer", "Chamfer", 3, higher_is_better=False)
    assert verdict(Estimate(-0.2, -0.3, -0.1, 9, 9), distance) == "better"
    assert verdict(Estimate(0.2, 0.1, 0.3, 9, 9), distance) == "worse"
    assert verdict(Estimate(0.2, 0.0, 0.3, 9, 9), distance) == "inconclusive"


def test_the_text_says_figures_verdicts_and_conditions() -> None:
    table = tabulated(
        result("start", None, scores(-1.0, chamfer=0.7)),
        result("slow", 0, scores(0.0)),
        result("fast", 0, scores(0.5)),
    )
    text = markdown(table, fake.experiment(fake.config(Path("x"))), "fake.png")
    assert "## A fake" in text
    assert "minus slowly" in text
    assert "+0.50 [+0.50, +0.50] better" in text
    assert "+0.200 [+0.200, +0.200] worse" in text  # the start's Chamfer distance
    assert "(fake.png)" in text
    for words in ("photographs 3", "steps 2", "batch 1", "seeds 0", "commit c", "threads 1"):
        assert words in text


def test_the_figure_shows_verdicts_by_colour() -> None:
    experiment = fake.experiment(fake.config(Path("x")))
    better = tabulated(result("slow", 0, scores(0.0)), result("fast", 0, scores(2.0)))
    unsure = tabulated(result("slow", 0, scores(0.0)), result("fast", 0, scores(0.1, 1.0)))

    def blue(table: Table) -> int:
        picture = bars(table, experiment).astype(int)
        return int(np.count_nonzero(picture[..., 2] - picture[..., 0] > 100))

    assert blue(better) > 1000
    assert blue(unsure) == 0
    assert bars(tabulated(), experiment).ndim == 3


@pytest.mark.parametrize(("extent", "step"), [(5, 1), (5.1, 2), (0.03, 0.01), (12, 5), (0, 2e-7)])
def test_steps_of_an_axis(extent: float, step: float) -> None:
    assert nice_step(extent) == pytest.approx(step)
