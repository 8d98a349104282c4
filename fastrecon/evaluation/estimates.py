"""Means with their uncertainty: every figure of a report is one of these."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .validation import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% bootstrap interval over objects."""

    mean: float
    low: float
    high: float
    count: int
    """Values averaged."""
    objects: int
    """Objects that they belong to."""

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """``15.43 [15.10, 15.80]``."""
        sign = "+" if signed else ""
        mean, low, high = (f"{x:{sign}.{digits}f}" for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def estimate(values: Tensor, chosen: Tensor) -> Estimate | None:
    """The mean of ``values (n, V)`` where ``chosen (n, V)`` is true; None without any.

    Values of one object (a row) hang together, so whole objects are resampled.
    """
    count = int(chosen.sum())
    if not count:
        return None
    sums = values.double().where(chosen, 0.0).sum(1)
    counts = chosen.double().sum(1)
    low, high = bootstrap_interval(sums, counts)
    mean = float(sums.sum() / count)
    return Estimate(mean, low, high, count, int((counts > 0).sum()))
