"""TripoSR (Tochilkin et al. 2024): its configuration file, and a renderer for its own code.

``Renderer`` is called as ``tsr.models.nerf_renderer.TriplaneNeRFRenderer`` is, so that a program
built on ``tsr`` swaps one object::

    model.renderer = Renderer(model.renderer.cfg)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from fastrecon_kernels import Decoder, RenderSettings, render_rays, sample_triplane
from torch import Tensor, nn

from fastrecon.checkpoint import CheckpointError
from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig

DENSITY_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "trunc_exp": torch.exp,
    "softplus": F.softplus,
    "relu": F.relu,
    "none": lambda x: x,
}
ENCODERS = {  # name on the hub: dim, heads, mlp_dim, patch_size, position_grid
    "facebook/dino-vits16": (384, 6, 1536, 16, 14),
    "facebook/dino-vits8": (384, 6, 1536, 8, 28),
    "facebook/dino-vitb16": (768, 12, 3072, 16, 14),
    "facebook/dino-vitb8": (768, 12, 3072, 8, 28),
}
CLASSES = {
    "image_tokenizer_cls": "DINOSingleImageTokenizer",
    "tokenizer_cls": "Triplane1DTokenizer",
    "backbone_cls": "Transformer1D",
    "post_processor_cls": "TriplaneUpsampleNetwork",
    "decoder_cls": "NeRFMLP",
    "renderer_cls": "TriplaneNeRFRenderer",
}
FIXED: dict[str, dict[str, Any]] = {  # options that exist over there, with the only value here
    "image_tokenizer": {},
    "tokenizer": {},
    "backbone": {
        "norm_num_groups": 32,
        "attention_bias": False,
        "activation_fn": "geglu",
        "only_cross_attention": False,
        "double_self_attention": False,
        "upcast_attention": False,
        "norm_type": "layer_norm",
        "norm_elementwise_affine": True,
    },
    "post_processor": {},
    "decoder": {"bias": True},
    "renderer": {"color_activation": "sigmoid"},
}
IGNORED = {  # options of training only
    "enable_gradient_checkpointing",
    "gradient_checkpointing",
    "enable_memory_efficient_attention",
    "dropout",
    "weight_init",
    "bias_init",
    "randomized",
}


def read_config(path: Path) -> LRMConfig:
    """``config.yaml`` of a TripoSR checkpoint as an `LRMConfig`.

    Raises:
        CheckpointError: not readable, or it describes a model that `LRM` is not.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        detail = str(error).replace("\n", " ")
        raise CheckpointError(
            f"{path} is not readable YAML ({detail}); fetch config.yaml again"
        ) from error
    try:
        return config_from_yaml(content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a TripoSR configuration: {error}") from error


def config_from_yaml(content: Any) -> LRMConfig:
    """Map TripoSR's configuration; every key must be one that is understood.

    Raises:
        ValueError: an unknown key, a missing one, or a value that `LRM` cannot express.
    """
    top = Section("the file", content)
    for key, name in CLASSES.items():
        found = str(top.take(key)).rsplit(".", 1)[-1]
        if found != name:
            raise ValueError(f"{key} must be a {name}, got {found}")
    sections = {name: Section(name, top.take(name)) for name in FIXED}
    image_size = top.integer("cond_image_size")
    top.finish({})
    image, tokens, trunk = (sections[n] for n in ("image_tokenizer", "tokenizer", "backbone"))
    upsample, mlp = sections["post_processor"], sections["decoder"]

    encoder_name = image.take("pretrained_model_name_or_path")
    if encoder_name not in ENCODERS:
        raise ValueError(
            f"image_tokenizer.pretrained_model_name_or_path must be one of {', '.join(ENCODERS)}, "
            f"got {encoder_name!r}"
        )
    dim, heads, mlp_dim, patch, grid = ENCODERS[encoder_name]
    config = LRMConfig(
        encoder=EncoderConfig(
            image_size=image_size,
            patch_size=patch,
            dim=dim,
            heads=heads,
            mlp_dim=mlp_dim,
            position_grid=grid,
        ),
        backbone=BackboneConfig(
            grid=tokens.integer("plane_size"),
            dim=tokens.integer("num_channels"),
            depth=trunk.integer("num_layers"),
            heads=trunk.integer("num_attention_heads"),
            head_dim=trunk.integer("attention_head_dim"),
            channels=upsample.integer("out_channels"),
        ),
        decoder=DecoderConfig(
            hidden=mlp.integer("n_neurons"),
            layers=mlp.integer("n_hidden_layers"),
            activation=str(mlp.take("activation", "relu")),
        ),
        render=render_settings(sections["renderer"]),
    )
    stacked = 3 if config.render.reduction == "concat" else 1
    trunk.agree("in_channels", config.backbone.dim)
    trunk.agree("cross_attention_dim", dim)
    if trunk.take("out_channels", None) not in (None, config.backbone.dim):
        raise ValueError(f"backbone.out_channels must be {config.backbone.dim}")
    upsample.agree("in_channels", config.backbone.dim)
    mlp.agree("in_channels", stacked * config.backbone.channels)
    for name, section in sections.items():
        section.finish(FIXED[name])
    return config


def render_settings(section: Section) -> RenderSettings:
    """TripoSR's renderer options as `RenderSettings`; takes the keys that it reads."""
    activation = section.take("density_activation", "trunc_exp")
    activation = "none" if activation is None else str(activation).lower()
    return RenderSettings.triposr(
        radius=section.number("radius"),
        reduction=section.take("feature_reduction", "concat"),
        density_activation=activation,
        density_shift=section.number("density_bias", -1.0),
        n_samples=section.integer("num_samples_per_ray", 128),
    )


class Section:
    """One mapping of the configuration; what nobody took is an error at the end."""

    def __init__(self, name: str, content: Any) -> None:
        if not isinstance(content, Mapping):
            raise ValueError(f"{name} must be a mapping, got {type(content).__name__}")
        self.name = name
        self.rest = dict(content)

    def take(self, key: str, *default: Any) -> Any:
        if key not in self.rest and not default:
            raise ValueError(f"{self.name} lacks {key}")
        return self.rest.pop(key, *default)

    def integer(self, key: str, *default: int) -> int:
        value = self.take(key, *default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{self.name}.{key} must be a positive integer, got {value!r}")
        return value

    def number(self, key: str, *default: float) -> float:
        value = self.take(key, *default)
        if type(value) not in (int, float):
            raise ValueError(f"{self.name}.{key} must be a number, got {value!r}")
        return float(value)

    def agree(self, key: str, expected: int) -> None:
        value = self.integer(key)
        if value != expected:
            raise ValueError(f"{self.name}.{key} must be {expected} to fit the rest, got {value}")

    def finish(self, fixed: Mapping[str, Any]) -> None:
        for key, value in self.rest.items():
            if key in IGNORED:
                continue
            if key not in fixed:
                raise ValueError(f"{self.name} has the unknown key {key!r}")
            if value != fixed[key]:
                raise ValueError(f"{self.name}.{key} must be {fixed[key]!r}, got {value!r}")


@dataclass(frozen=True)
class RendererConfig:
    """The fields of ``TriplaneNeRFRenderer.Config``, with the released model's values."""

    radius: float = 0.87
    feature_reduction: str = "concat"
    density_activation: str = "exp"
    density_bias: float = -1.0
    color_activation: str = "sigmoid"
    num_samples_per_ray: int = 128
    randomized: bool = False
    """Read by nothing, there as here: rendering is deterministic."""


class Renderer(nn.Module):
    """Drop-in for ``TriplaneNeRFRenderer``; unlike it, rays may miss the box (they are white).

    Args:
        cfg: ``model.renderer.cfg``, a mapping of the same fields, or None for the released model.

    Raises:
        ValueError: an option that the fused renderer cannot express.
    """

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        if cfg is None:
            cfg = RendererConfig()
        if not isinstance(cfg, Mapping):
            cfg = asdict(cfg) if is_dataclass(cfg) and not isinstance(cfg, type) else vars(cfg)
        section = Section("renderer", cfg)
        self.settings = render_settings(section)
        section.finish(FIXED["renderer"])
        self.cfg = RendererConfig(**dict(cfg))
        self.chunk_size = 0

    def set_chunk_size(self, chunk_size: int) -> None:
        """Points per step of ``query_triplane`` (0: all at once); rendering chunks itself."""
        if chunk_size < 0:
            raise ValueError(f"chunk_size must be 0 (no chunks) or positive, got {chunk_size}")
        self.chunk_size = chunk_size

    def forward(
        self, decoder: nn.Module, triplane: Tensor, rays_o: Tensor, rays_d: Tensor
    ) -> Tensor:
        """Colours on white ``(..., 3)`` of rays ``(..., 3)`` through ``(3, C, H, W)``; or with a
        leading ``B`` on all three."""
        view = Decoder.from_mlp(_mlp(decoder))
        if triplane.ndim == 4:
            triplane, rays_o, rays_d = triplane[None], rays_o[None], rays_d[None]
            return render_rays(triplane, view, rays_o, rays_d, self.settings).rgb[0]
        return render_rays(triplane, view, rays_o, rays_d, self.settings).rgb

    def query_triplane(
        self, decoder: nn.Module, positions: Tensor, triplane: Tensor
    ) -> dict[str, Tensor]:
        """The field at ``positions (..., 3)``, in scene units, of one triplane ``(3, C, H, W)``.

        Returns raw ``density (..., 1)`` and ``features (..., 3)``, and activated ``density_act``
        and ``color`` of the same shapes.
        """
        if triplane.ndim != 4:
            raise ValueError(
                f"triplane must be (3, C, H, W), got {tuple(triplane.shape)}; query one at a time"
            )
        mlp, settings = _mlp(decoder), self.settings
        dtype = next(mlp.parameters()).dtype

        def decode(points: Tensor) -> Tensor:
            features = sample_triplane(
                triplane[None], points[None], axes=settings.axes, reduction=settings.reduction
            )
            return mlp(features[0].to(dtype))

        points = positions.reshape(-1, 3) / settings.radius
        chunks = points.split(self.chunk_size or max(len(points), 1))
        raw = torch.cat([decode(chunk) for chunk in chunks]).reshape(*positions.shape[:-1], 4)
        density, features = raw[..., :1], raw[..., 1:]
        activate = DENSITY_ACTIVATIONS[settings.density_activation]
        return {
            "density": density,
            "features": features,
            "density_act": activate(density + settings.density_shift),
            "color": torch.sigmoid(features),
        }


def _mlp(decoder: nn.Module) -> nn.Sequential:
    """``NeRFMLP.layers``."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.Sequential):
        raise TypeError(
            "decoder must have its MLP as an nn.Sequential named `layers`, as tsr's NeRFMLP has, "
            f"got {type(decoder).__name__}"
        )
    return layers
