"""The MLP from a triplane feature to raw density and colour logits."""

from __future__ import annotations

from fastrecon_kernels import Decoder
from torch import Tensor, nn

from fastrecon.config import DecoderConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
}


class TriplaneDecoder(nn.Module):
    """``layers``: Linear, activation, ..., Linear; output 0 is density, 1-3 are colour logits."""

    def __init__(self, config: DecoderConfig, n_features: int) -> None:
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise ValueError(
                f"decoder.activation must be one of {', '.join(map(repr, ACTIVATIONS))}, "
                f"got {config.activation!r}"
            )
        layers: list[nn.Module] = []
        width = n_features
        for _ in range(config.layers):
            layers += [nn.Linear(width, config.hidden), ACTIVATIONS[config.activation]()]
            width = config.hidden
        layers.append(nn.Linear(width, 4))
        self.layers = nn.Sequential(*layers)
        for module in layers:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    @property
    def view(self) -> Decoder:
        """The same tensors as the kernels take them."""
        return Decoder.from_mlp(self.layers)

    def forward(self, features: Tensor) -> Tensor:
        """``(..., n_features)`` -> ``(..., 4)`` before any activation."""
        return self.layers(features)
