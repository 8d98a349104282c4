"""Results of an experiment compared object by object, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..evaluation.estimates import Estimate, estimate
from ..evaluation.report import table as aligned
from .experiment import Experiment, Metric, Scores

Verdict = Literal["better", "worse", "inconclusive"]
BySeed = dict[int | None, Scores]
"""Scores of an arm; under None those of one that is not trained."""


@dataclass(frozen=True)
class Difference:
    """An arm minus a reference on the same objects and seeds."""

    estimate: Estimate
    by_seed: dict[int, float]
    spread: float | None
    """Standard deviation of the seeds' means; None for one seed."""
    verdict: Verdict


@dataclass(frozen=True)
class Row:
    """One arm, one metric."""

    metric: str
    arm: str
    mean: Estimate
    by_seed: dict[str, float]
    spread: float | None
    absent: int
    """Models of an object that have no such value."""
    over: dict[str, Difference | None]
    """By reference; None where there is nothing to compare."""


@dataclass(frozen=True)
class Table:
    """All rows, and what they are a function of."""

    rows: list[Row]
    conditions: dict[str, Any]
    results: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        results: Sequence[dict[str, Any]],
        conditions: Mapping[str, Any],
    ) -> Table:
        """Compare finished jobs' results; arms without one are left out."""
        arms: dict[str, BySeed] = {}
        for result in results:
            arms.setdefault(result["arm"], {})[result["seed"]] = result["scores"]
        rows = [
            _row(metric, arm, arms, experiment.references)
            for metric in experiment.metrics
            for arm in experiment.arms
            if arm in arms
        ]
        return cls(
            [row for row in rows if row is not None],
            {**conditions, **_shared(results)},
            list(results),
        )

    def to_json(self) -> dict[str, Any]:
        """Every figure, and the values of every object."""
        return {
            "conditions": self.conditions,
            "rows": [asdict(row) for row in self.rows],
            "results": self.results,
        }


def _row(
    metric: Metric, arm: str, arms: Mapping[str, BySeed], references: Sequence[str]
) -> Row | None:
    scores = {seed: s.get(metric.name, {}) for seed, s in arms[arm].items()}
    objects = list(dict.fromkeys(name for values in scores.values() for name in values))
    values = _matrix(list(scores.values()), objects)
    mean = estimate(values.nan_to_num(), values.isfinite())
    if mean is None:
        return None
    by_seed = {str(seed): _mean(column) for seed, column in zip(scores, values.T, strict=True)}
    return Row(
        metric=metric.name,
        arm=arm,
        mean=mean,
        by_seed=by_seed,
        spread=_spread(list(by_seed.values())),
        absent=int((~values.isfinite()).sum()),
        over={r: _difference(metric, arm, r, arms) for r in references if r != arm},
    )


def _difference(
    metric: Metric, arm: str, reference: str, arms: Mapping[str, BySeed]
) -> Difference | None:
    """Paired by object and seed; whole objects are resampled, with all their seeds."""
    mine, theirs = arms[arm], arms.get(reference, {})
    seeds = sorted({s for s in (*mine, *theirs) if s is not None})
    pairs = {seed: (_at(mine, seed), _at(theirs, seed)) for seed in seeds or [0]}
    both = {
        seed: (a.get(metric.name, {}), b.get(metric.name, {}))
        for seed, (a, b) in pairs.items()
        if a is not None and b is not None
    }
    if not both:
        return None
    objects = list(dict.fromkeys(name for a, _ in both.values() for name in a))
    left, right = (_matrix([pair[k] for pair in both.values()], objects) for k in (0, 1))
    values = left - right
    found = estimate(values.nan_to_num(), values.isfinite())
    if found is None:
        return None
    by_seed = {seed: _mean(column) for seed, column in zip(both, values.T, strict=True)}
    return Difference(found, by_seed, _spread(list(by_seed.values())), verdict(found, metric))


def _at(scores: BySeed, seed: int) -> Scores | None:
    return scores.get(None, scores.get(seed))


def verdict(found: Estimate, metric: Metric) -> Verdict:
    """ "inconclusive" wherever the interval contains 0."""
    if found.low <= 0.0 <= found.high:
        return "inconclusive"
    return "better" if (found.mean > 0.0) == metric.higher_is_better else "worse"


def _matrix(columns: Sequence[Mapping[str, float | None]], objects: Sequence[str]) -> Tensor:
    """(objects, columns), NaN where there is no value."""
    rows = [[c.get(name) for c in columns] for name in objects]
    return torch.tensor(
        [[math.nan if v is None else v for v in row] for row in rows], dtype=torch.float64
    ).reshape(len(objects), len(columns))


def _mean(values: Tensor) -> float:
    return float(values[values.isfinite()].mean())


def _spread(values: Sequence[float]) -> float | None:
    known = [v for v in values if math.isfinite(v)]
    return float(torch.tensor(known, dtype=torch.float64).std()) if len(known) > 1 else None


def _shared(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Conditions of the processes that made the results; several values are all named."""
    found: dict[str, Any] = {}
    for key in ("torch", "python", "commit", "machine", "threads", "parameters"):
        values = list(dict.fromkeys(str(r["conditions"][key]) for r in results))
        found[key] = " and ".join(values)
    for key in ("training", "evaluation"):
        found[f"seconds of {key}"] = round(sum(r["seconds"][key] for r in results))
    trained = {r["arm"]: r["config"] for r in results if r["seed"] is not None}
    for key, (part, name) in {
        "steps": ("optim", "steps"),
        "batch": ("optim", "batch_size"),
    }.items():
        values = list(dict.fromkeys(str(cfg[part][name]) for cfg in trained.values()))
        found[key] = " and ".join(values)
    seeds = sorted({r["seed"] for r in results if r["seed"] is not None})
    found["seeds"] = ", ".join(map(str, seeds))
    return found


def markdown(table: Table, experiment: Experiment, figure: str = "") -> str:
    """The table of an experiment as a section of a page; ``figure`` is a picture beside it."""
    head = ["metric", "arm", "mean", "seeds"]
    head += [f"minus {experiment.arms[r].title}" for r in experiment.references]
    lines = [head]
    for metric in experiment.metrics:
        rows = [row for row in table.rows if row.metric == metric.name]
        for k, row in enumerate(rows):
            lines.append(
                [
                    f"{metric.title} {'↑' if metric.higher_is_better else '↓'}" if not k else "",
                    experiment.arms[row.arm].title,
                    row.mean.text(metric.digits),
                    _plus_minus(row.spread, metric.digits + 1),
                    *(_cell(row, r, metric) for r in experiment.references),
                ]
            )
    blocks = [f"## {experiment.title}", experiment.question, aligned(lines), _words(table)]
    blocks += _absent(table, experiment)
    if figure:
        blocks.append(f"![{experiment.title}: differences with 95% intervals]({figure})")
    blocks.append("Conditions: " + "; ".join(f"{k} {v}" for k, v in table.conditions.items()) + ".")
    return "\n\n".join(blocks) + "\n"


def _cell(row: Row, reference: str, metric: Metric) -> str:
    difference = row.over.get(reference)
    if difference is None:
        return ""
    text = difference.estimate.text(metric.digits, signed=True)
    if difference.spread is not None:
        text += f", {_plus_minus(difference.spread, metric.digits + 1)}"
    return f"{text} {difference.verdict}"


def _plus_minus(spread: float | None, digits: int) -> str:
    return "" if spread is None else f"±{spread:.{digits}f}"


def _words(table: Table) -> str:
    counts = {row.mean.objects for row in table.rows}
    objects = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
    return (
        f"Means over {objects} objects and all seeds, in brackets 95% bootstrap intervals that "
        "resample objects. Differences are paired by object and seed; *inconclusive* is what has "
        "0 in its interval. ± is the standard deviation of the means of the seeds, which the "
        "intervals do not include."
    )


def _absent(table: Table, experiment: Experiment) -> list[str]:
    titles = {metric.name: metric.title for metric in experiment.metrics}
    said = [
        f"{titles[row.metric]}, {experiment.arms[row.arm].title}: no value for {row.absent} of "
        f"{row.absent + row.mean.count} models of objects, which are left out."
        for row in table.rows
        if row.absent
    ]
    return [" ".join(said)] if said else []


def markers(experiment: Experiment) -> tuple[str, str]:
    """Lines of a page between which the section goes."""
    begin, end = (f"<!-- fastrecon {experiment.name}: {word} -->" for word in ("begin", "end"))
    return begin, end
