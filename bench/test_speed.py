"""The operators under pytest-benchmark, its tables, histograms and comparisons included.

    pytest bench --benchmark-only [-k "composite and forward"] [--benchmark-autosave]

On a GPU where there is one, else on the CPU's quick sizes. Parity is checked first, on the same
inputs. `python -m bench` measures more renderers, in turns; this is for a look at one operator.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.case import PASSES, PEER, Case, Pass
from bench.harness import agrees, differences, make_step
from bench.operators import CASES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPERATORS = [case for case in CASES.values() if not case.extra]


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: case.name)
def test_operator(case: Case, which: Pass, benchmark: Any) -> None:
    problem = case.make(case.size(which, DEVICE, DEVICE.type == "cpu"), DEVICE, which != "forward")
    ours = case.renderers["ours"]
    step = make_step(ours, problem, which)
    expected = make_step(case.renderers[PEER], problem, which)()
    n_results = len(expected) - (len(problem.leaves) if which != "forward" else 0)
    found = differences(step(), expected, n_results)
    assert agrees(found, ours.tolerance), found
    del expected
    benchmark.extra_info |= {"samples": problem.n_samples, **found}

    def call() -> None:
        step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark(call)
