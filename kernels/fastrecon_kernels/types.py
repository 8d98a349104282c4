"""What the operators take and give back: the decoder and the rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .settings import check_choice

ACTIVATIONS = ("silu", "relu", "softplus")


class RaySamples(NamedTuple):
    """Per-sample outputs; M = S for bins, S - 1 (interval midpoints) for the midpoint rule."""

    weights: Tensor  # (B, ..., M) differentiable
    ts: Tensor  # (B, ..., M) no gradient
    deltas: Tensor  # (B, ..., M) no gradient, in units of t


class Rendering(NamedTuple):
    """A rendered ray bundle; fp32, or fp64 for fp64 input."""

    rgb: Tensor  # (B, ..., K)
    opacity: Tensor  # (B, ...)
    depth: Tensor  # (B, ...) sum(w t) / (opacity + depth_eps); 0 on a miss
    samples: RaySamples | None = None  # only with per_sample=True


@dataclass(frozen=True, eq=False)
class Decoder:
    """An MLP from a triplane feature to raw density and K colour logits.

    ``weights`` are ``(out, in)``, ``biases`` ``(out,)`` or None; the last layer has ``1 + K``
    outputs. The very tensors are kept, so gradients reach whatever module owns them.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    activation: str = "silu"

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        object.__setattr__(self, "weights", tuple(self.weights))
        object.__setattr__(self, "biases", tuple(self.biases))
        if not self.weights:
            raise ValueError("a decoder needs at least one layer, got none")
        if len(self.weights) != len(self.biases):
            raise ValueError(
                f"a decoder needs one bias (or None) per weight, got {len(self.weights)} weights "
                f"and {len(self.biases)} biases"
            )
        width = None
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None):
                raise TypeError(f"decoder layer {i} must hold torch tensors (bias: or None)")
            if weight.ndim != 2 or (width is not None and weight.shape[1] != width):
                expected = "(out, in)" if width is None else f"(out, {width})"
                raise ValueError(
                    f"decoder weight {i} must be {expected}, got {tuple(weight.shape)}"
                )
            width = weight.shape[0]
            if bias is not None and bias.shape != (width,):
                raise ValueError(f"decoder bias {i} must be ({width},), got {tuple(bias.shape)}")
        if width is None or width < 2:
            raise ValueError(
                f"the last decoder layer must give 1 + K numbers (density, colours), got {width}"
            )

    @property
    def n_features(self) -> int:
        """Width of the feature that the decoder reads."""
        return self.weights[0].shape[1]

    @property
    def n_colours(self) -> int:
        """K, the number of colour channels."""
        return self.weights[-1].shape[0] - 1

    @property
    def parameters(self) -> list[Tensor]:
        """Every weight and bias that is there, weights first."""
        return [*self.weights, *(b for b in self.biases if b is not None)]

    @classmethod
    def from_mlp(cls, mlp: nn.Sequential) -> Decoder:
        """Read ``Linear, act, Linear, act, ..., Linear`` without copying a tensor."""
        names = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Softplus: "softplus"}
        layers = list(mlp)
        linears, acts = layers[0::2], layers[1::2]
        if not linears or len(linears) != len(acts) + 1:
            raise ValueError(
                "from_mlp reads Linear, activation, ..., Linear with no trailing activation; got "
                + ", ".join(type(m).__name__ for m in layers)
            )
        layers_found = [module for module in linears if isinstance(module, nn.Linear)]
        if len(layers_found) != len(linears):
            odd = next(m for m in linears if not isinstance(m, nn.Linear))
            raise ValueError(f"expected nn.Linear, got {type(odd).__name__}")
        for act in acts:
            if type(act) not in names:
                raise ValueError(
                    f"activations must be SiLU, ReLU or Softplus, got {type(act).__name__}"
                )
            if isinstance(act, nn.Softplus) and (act.beta, act.threshold) != (1, 20):
                raise ValueError(
                    "softplus must have beta=1 and threshold=20, got "
                    f"beta={act.beta}, threshold={act.threshold}"
                )
        kinds = {names[type(act)] for act in acts} or {"silu"}
        if len(kinds) > 1:
            raise ValueError(f"all activations must be the same, got {', '.join(sorted(kinds))}")
        return cls([m.weight for m in layers_found], [m.bias for m in layers_found], kinds.pop())

    def to(self, target: torch.device | torch.dtype | str) -> Decoder:
        """The same decoder with its tensors moved or cast (differentiable)."""
        return Decoder(
            [w.to(target) for w in self.weights],
            [None if b is None else b.to(target) for b in self.biases],
            self.activation,
        )
