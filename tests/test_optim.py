"""Optimizer groups, schedule and weight average: by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrecon.config import OptimConfig
from fastrecon.optim import (
    WeightAverage,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.up = nn.ConvTranspose2d(2, 2, 2)
        self.norm = nn.LayerNorm(2)
        self.words = nn.Embedding(4, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 5, 2))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_only_matrices_and_convolutions_decay():
    model = Small()
    names = {id(p): n for n, p in model.named_parameters()}
    decay, rest = parameter_groups(model, 0.05)
    assert {names[id(p)] for p in decay["params"]} == {"linear.weight", "up.weight"}
    assert {names[id(p)] for p in rest["params"]} == {
        "linear.bias",
        "up.bias",
        "norm.weight",
        "norm.bias",
        "words.weight",
        "cls_token",
        "position_embeddings",
    }
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.05, 0.0)


def test_schedule():
    cfg = OptimConfig(steps=110, warmup=10, lr=1.0, final_lr=0.1)
    assert learning_rate(cfg, 0) == pytest.approx(0.1)
    assert learning_rate(cfg, 9) == pytest.approx(1.0)
    assert learning_rate(cfg, 10) == pytest.approx(1.0)
    assert learning_rate(cfg, 60) == pytest.approx(0.1 + 0.9 * 0.5)  # half of the cosine
    assert learning_rate(cfg, 110) == pytest.approx(0.1)


def test_a_warmup_longer_than_half_of_the_run_is_cut():
    cfg = OptimConfig(steps=8, warmup=100, lr=1.0)
    assert [learning_rate(cfg, s) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate(OptimConfig(steps=1, warmup=100, lr=1.0), 0) == 1.0


def test_optimizer_state_round_trip_by_name():
    torch.manual_seed(0)
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    optimizers = [build_optimizer(m, OptimConfig(lr=0.1)) for m in (model, twin)]
    x = torch.randn(4, 3)

    def step(i: int, m: nn.Linear) -> None:
        optimizers[i].zero_grad()
        m(x).square().sum().backward()
        optimizers[i].step()

    step(0, model)
    tensors = optimizer_tensors(optimizers[0], model)
    assert set(tensors) == {
        f"{name}/{key}" for name in ("weight", "bias") for key in ("step", "exp_avg", "exp_avg_sq")
    }
    twin.load_state_dict(model.state_dict())
    load_optimizer_tensors(optimizers[1], twin, tensors)
    step(0, model)
    step(1, twin)
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)
    with pytest.raises(ValueError, match="'other'"):
        load_optimizer_tensors(optimizers[1], twin, {"other/step": torch.zeros(())})


def test_weight_average():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = WeightAverage(model, decay=0.5)
    model.weight.data.fill_(11.0)
    average.update(step=0)  # warmed-up decay (1 + 0) / (10 + 0) = 0.1
    assert average.tensors["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    average.update(step=1000)  # the decay itself
    assert average.tensors["weight"].item() == pytest.approx(0.5 * 10.0 + 0.5 * 11)
    with average.applied():
        assert model.weight.item() == pytest.approx(10.5)
    assert model.weight.item() == 11.0
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert model.weight.item() == 11.0


def test_weight_average_off():
    model = nn.Linear(1, 1)
    average = WeightAverage(model, decay=0.0)
    average.update(0)
    before = model.weight.item()
    with average.applied():
        assert model.weight.item() == before
    assert average.tensors == {}
