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
    set_learning_rate,
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


class Networks(nn.Module):
    """Something of every kind that Muon takes or leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Small()
        self.decoder = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body.norm(self.body.linear(x)) + self.body.cls_token[0] + self.body.words.weight[1]
        y = y + self.body.position_embeddings[0, 0]
        z = self.body.up(y[..., None, None]).mean((2, 3))
        return self.decoder(z)


MUON = OptimConfig(kind="muon", lr=0.1, weight_decay=0.02)


def test_muon_takes_the_matrices_of_the_networks_alone():
    model = Networks()
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, MUON)
    muon, adamw = optimizer.parts
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    taken = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    assert taken == ["body.linear.weight"]
    decayed, rest = ({names[id(p)] for p in g["params"]} for g in adamw.param_groups)
    assert decayed == {"body.up.weight", "decoder.0.weight", "decoder.1.weight"}
    everything = {n for n, p in model.named_parameters() if p.requires_grad}
    assert rest == everything - decayed - set(taken)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.02, 0.02, 0.0]
    set_learning_rate(optimizer, 0.7)
    assert {g["lr"] for g in optimizer.param_groups} == {0.7}
    (adamw,) = build_optimizer(model, OptimConfig()).parts
    assert sum(len(g["params"]) for g in adamw.param_groups) == len(everything)


def test_muon_s_steps_are_orthogonal_and_of_adamw_s_size():
    """The first step is 0.2 sqrt(longer side) lr times an orthogonal matrix, about."""
    torch.manual_seed(0)
    model = nn.Module()
    model.layer = nn.Linear(32, 24, bias=False)
    optimizer = build_optimizer(model, OptimConfig(kind="muon", lr=0.1, weight_decay=0.0))
    before = model.layer.weight.detach().clone()
    model.layer.weight.grad = torch.randn(24, 32)
    optimizer.step()
    step = (before - model.layer.weight.detach()) / 0.1
    sizes = torch.linalg.svdvals(step) / (0.2 * 32**0.5)
    assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2, rel=0.15)
    optimizer.zero_grad()
    assert model.layer.weight.grad is None


def test_muon_s_state_goes_through_a_file_and_back():
    torch.manual_seed(0)
    model, twin = Networks(), Networks()
    optimizers = [build_optimizer(m, MUON) for m in (model, twin)]
    x = torch.randn(5, 3)

    def step(i: int, m: Networks) -> None:
        optimizers[i].zero_grad()
        m(x).square().sum().backward()
        optimizers[i].step()

    step(0, model)
    step(0, model)
    tensors = optimizer_tensors(optimizers[0], model)
    assert "body.linear.weight/momentum_buffer" in tensors
    assert "decoder.0.weight/exp_avg" in tensors
    assert not any(name.startswith("body.linear.weight/exp") for name in tensors)
    twin.load_state_dict(model.state_dict())
    load_optimizer_tensors(optimizers[1], twin, {k: v.clone() for k, v in tensors.items()})
    again = optimizer_tensors(optimizers[1], twin)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[k], v) for k, v in tensors.items())
    for _ in range(2):
        step(0, model)
        step(1, twin)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, twin.get_parameter(name)), name


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


def test_weight_average_leaves_out_what_is_not_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    model[1].requires_grad_(True)
    assert set(WeightAverage(model, decay=0.5).tensors) == {"1.weight", "1.bias"}


def test_weight_average_off():
    model = nn.Linear(1, 1)
    average = WeightAverage(model, decay=0.0)
    average.update(0)
    before = model.weight.item()
    with average.applied():
        assert model.weight.item() == before
    assert average.tensors == {}
