"""Measuring launch choices on a tiny field with a clock that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fastrecon_kernels.render.autotune import Measured, measure_field
from fastrecon_kernels.render.candidates import Stage
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.trial import Size, Step, Trial
from fastrecon_kernels.render.tuned import FieldKey

KEY = FieldKey(DecoderShape(4, 1, (16, 4)), 1, "mean", "silu", "tf32")
TINY = Size(picture=4, samples=3)
TILES = Stage("forward", "forward", ({"field": (16, 4)}, {"field": (64, 4)}, {"field": (128, 4)}))


class FakeClock:
    """Says how long each step took; several times, of which the median counts."""

    def __init__(self, *milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.timed = 0

    def time(self, steps: Sequence[Step]) -> list[list[float]]:
        self.timed = len(steps)
        chosen = self.milliseconds[: len(steps)]
        return [[m, 0.9 * m, 50.0, m, 1.1 * m] for m in chosen]


def measure(
    device: torch.device, clock: FakeClock, *stages: Stage, key: FieldKey = KEY, **options: Any
) -> Measured:
    options = {"size": TINY, **options}
    return measure_field(device, key, (8,), clock=clock, alternatives=stages, **options)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices that all give the same, without a launch."""
    same = [torch.arange(4.0), torch.rand(4, 3)]
    monkeypatch.setattr(Trial, "results", lambda self, stage, tuning: [x.clone() for x in same])
    monkeypatch.setattr(Trial, "step", lambda self, stage, tuning: lambda: None)
