"""AdamW or Muon, a warmed-up cosine, and the weight average that is exported."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .config import OptimConfig

MOMENTUM = 0.95
"""Of Muon; its authors' value."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices and convolutions decay; biases, norms and tables do not.

    A table (position embedding, class token, plane tokens, ``nn.Embedding``) is looked up or added,
    not multiplied, so shrinking it regularises nothing. In every model here, and in the
    checkpoints that they read, matrices are the parameters whose name ends in "weight".
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decay, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and name.endswith("weight")
        (decay if is_matrix and id(parameter) not in embeddings else rest).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


class Optimizer:
    """One or several of torch's optimizers, each with parameters of its own, behind one face."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        """The groups of all."""
        return [group for part in self.parts for group in part.param_groups]

    def states(self) -> dict[Tensor, dict[str, Tensor]]:
        """The state of every parameter, to read and to write."""
        return {
            parameter: part.state[parameter]
            for part in self.parts
            for group in part.param_groups
            for parameter in group["params"]
        }

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)


def build_optimizer(model: nn.Module, cfg: OptimConfig) -> Optimizer:
    """AdamW, or with ``cfg.kind`` "muon" Muon for the networks' matrices and AdamW for the rest.

    Muon (Jordan et al. 2024) steps along the orthogonalised momentum of a matrix; with updates
    scaled to AdamW's size (Liu et al. 2025) both share one learning rate and one weight decay. The
    decoder stays with AdamW: it is small, and its outputs have scales of their own.
    """
    decay, rest = parameter_groups(model, cfg.weight_decay)
    adamw = partial(torch.optim.AdamW, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=True)
    if cfg.kind == "adamw":
        return Optimizer(adamw([decay, rest]))
    decoder = {id(p) for name, p in model.named_parameters() if name.startswith("decoder.")}
    matrices = [p for p in decay["params"] if p.ndim == 2 and id(p) not in decoder]
    taken = {id(p) for p in matrices}
    others = decay | {"params": [p for p in decay["params"] if id(p) not in taken]}
    muon = torch.optim.Muon(
        matrices,
        lr=cfg.lr,
        weight_decay=cfg.weight_decay,
        momentum=MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    return Optimizer(muon, adamw([others, rest]))


def learning_rate(cfg: OptimConfig, step: int) -> float:
    """The rate of ``step`` (from 0): linear warm-up, then a cosine down to ``lr * final_lr``.

    A warm-up longer than half of the run is cut to that half, so that a short trial of a recipe
    needs one override only.
    """
    warmup = min(cfg.warmup, cfg.steps // 2)
    if step < warmup:
        return cfg.lr * (cfg.start_lr + (1.0 - cfg.start_lr) * (step + 1) / warmup)
    progress = min((step - warmup) / max(cfg.steps - warmup, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return cfg.lr * (cfg.final_lr + (1.0 - cfg.final_lr) * cosine)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as ``{"<parameter name>/<exp_avg, ...>": tensor}``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimizer.states().items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of ``optimizer_tensors``; values keep their dtype and go to the parameter's device.

    Raises:
        ValueError: a tensor belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    states = optimizer.states()
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise ValueError(f"optimizer state of {name!r}, which the model does not have")
        parameter = parameters[name]
        # a copy: what was read from a file may be backed by that file
        states[parameter][key] = value.to(parameter.device, copy=True)


class WeightAverage:
    """Exponential moving average of a model's trained parameters, beside it in the same dtype.

    The decay is warmed up, ``min(decay, (1 + step) / (10 + step))``, so that the random start is
    forgotten quickly. A decay of 0 turns averaging off: the average is then the model itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {}
        if decay:
            self.tensors = {n: p.detach().clone() for n, p in self.parameters.items()}

    def update(self, step: int) -> None:
        """Move the average towards the parameters after optimizer step ``step`` (from 0)."""
        if self.tensors:
            decay = min(self.decay, (1 + step) / (10 + step))
            move = get_ema_multi_avg_fn(decay)
            move(list(self.tensors.values()), list(self.parameters.values()), None)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a stored average, exactly."""
        for name, mine in self.tensors.items():
            mine.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model computes with the averaged weights inside this context."""
        originals = {name: self.parameters[name].data for name in self.tensors}
        try:
            for name, average in self.tensors.items():
                self.parameters[name].data = average
            yield
        finally:
            for name, original in originals.items():
                self.parameters[name].data = original
