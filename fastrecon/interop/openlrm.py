"""OpenLRM 1.1 (He and Wang 2024): its configurations, its names of parameters, its released sizes.

A released checkpoint is a ``config.json`` beside ``model.safetensors`` or ``pytorch_model.bin``,
for example ``zxhezexin/openlrm-mix-base-1.1`` on the hub. What that file does not say is taken from
the released inference code: the size of the input picture, on white; the camera it is taken to be
made with (distance 2, focal length 0.75 of the picture's side); the density of the mesh.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor

from fastrecon.checkpoint import CheckpointError
from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig
from fastrecon.models.modulated import OWN_AXES

from .triposr import Section

PATCH, POSITION_GRID, REGISTERS = 14, 37, 4
"""Of every DINOv2: patches of 14 pixels, a position table for 518 of them, registers if any."""
ENCODERS = {  # DINOv2's names: dim, depth, heads
    "dinov2_vits14": (384, 12, 6),
    "dinov2_vitb14": (768, 12, 12),
    "dinov2_vitl14": (1024, 24, 16),
}
IMAGE_SIZES = {512: 224, 768: 336, 1024: 448}
"""Side of the input picture by ``transformer_dim``: small, base and large."""
IMAGE_SIZE_KEY = "source_image_res"
"""Its name in OpenLRM's training configuration; ``config.json`` may hold it too."""
PREFIXES = (  # this package's, OpenLRM's
    ("image_tokenizer.", "encoder."),
    ("camera_embedder.", "camera_embedder."),
    ("tokenizer.embeddings", "pos_embed"),
    ("backbone.", "transformer."),
    ("post_processor.upsample.", "upsampler."),
    ("decoder.layers.", "synthesizer.decoder.net."),
)
RELEASED: dict[str, dict[str, Any]] = {  # where the released configurations differ
    "small": {
        "transformer_dim": 512,
        "transformer_layers": 12,
        "transformer_heads": 8,
        "triplane_dim": 32,
        "rendering_samples_per_ray": 96,
        "encoder_model_name": "dinov2_vits14_reg",
        "encoder_feat_dim": 384,
    },
    "base": {
        "transformer_dim": 768,
        "transformer_layers": 12,
        "transformer_heads": 12,
        "triplane_dim": 48,
        "rendering_samples_per_ray": 96,
        "encoder_model_name": "dinov2_vitb14_reg",
        "encoder_feat_dim": 768,
    },
    "large": {
        "transformer_dim": 1024,
        "transformer_layers": 16,
        "transformer_heads": 16,
        "triplane_dim": 80,
        "rendering_samples_per_ray": 128,
        "encoder_model_name": "dinov2_vitb14_reg",
        "encoder_feat_dim": 768,
    },
}


def openlrm_config(size: str = "base") -> LRMConfig:
    """The model of ``openlrm-{obj,mix}-{size}-1.1``: "small", "base" or "large"."""
    if size not in RELEASED:
        raise ValueError(f"size must be one of {', '.join(map(repr, RELEASED))}, got {size!r}")
    common = {
        "camera_embed_dim": 1024,
        "triplane_low_res": 32,
        "triplane_high_res": 64,
        "encoder_type": "dinov2",
    }
    return config_from_json(common | RELEASED[size])


def describes_openlrm(content: Any) -> bool:
    """Whether the content of a ``config.json`` is one of OpenLRM's."""
    keys = {"camera_embed_dim", "transformer_dim", "triplane_dim"}
    return isinstance(content, Mapping) and keys <= content.keys()


def read_config(content: Any, *, where: str) -> LRMConfig:
    """OpenLRM's ``config.json``, read from ``where``, as an `LRMConfig`.

    Raises:
        CheckpointError: it describes a model that `LRM` is not.
    """
    try:
        return config_from_json(content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where} is not a configuration of OpenLRM 1.1: {error}") from error


def config_from_json(content: Mapping[str, Any]) -> LRMConfig:
    """Map OpenLRM's configuration; every key must be one that is understood.

    Rendering is deterministic here (OpenLRM jitters its samples at inference too); training jitters
    them by ``data.jitter``.

    Raises:
        ValueError: an unknown key, a missing one, or a value that `LRM` cannot express.
    """
    section = Section("the configuration", content)
    if section.take("encoder_type", "dino") != "dinov2":
        raise ValueError("encoder_type must be 'dinov2'; models with DINO's encoder are not read")
    name = section.take("encoder_model_name")
    plain = name.removesuffix("_reg") if isinstance(name, str) else None
    if plain not in ENCODERS:
        known = ", ".join(f"{n}, {n}_reg" for n in ENCODERS)
        raise ValueError(f"encoder_model_name must be one of {known}, got {name!r}")
    encoder_dim, encoder_depth, encoder_heads = ENCODERS[plain]
    section.agree("encoder_feat_dim", encoder_dim)
    dim, heads = section.integer("transformer_dim"), section.integer("transformer_heads")
    if dim % heads:
        raise ValueError(f"transformer_dim = {dim} must be a multiple of transformer_heads")
    grid = section.integer("triplane_low_res")
    section.agree("triplane_high_res", 2 * grid)
    samples = section.integer("rendering_samples_per_ray") // 2
    image_size = section.rest.pop(IMAGE_SIZE_KEY, IMAGE_SIZES.get(dim))
    if type(image_size) is not int or image_size < PATCH or image_size % PATCH:
        raise ValueError(
            f"the side of the input picture must be a multiple of {PATCH}, got {image_size!r}; it "
            f'is known for the released widths only: add "{IMAGE_SIZE_KEY}" as it is in the '
            "training configuration"
        )
    config = LRMConfig(
        encoder=EncoderConfig(
            kind="dinov2",
            image_size=image_size,
            patch_size=PATCH,
            dim=encoder_dim,
            depth=encoder_depth,
            heads=encoder_heads,
            mlp_dim=4 * encoder_dim,
            position_grid=POSITION_GRID,
            registers=REGISTERS if name != plain else 0,
        ),
        backbone=BackboneConfig(
            conditioning="camera",
            camera_dim=section.integer("camera_embed_dim"),
            grid=grid,
            dim=dim,
            depth=section.integer("transformer_layers"),
            heads=heads,
            head_dim=dim // heads,
            channels=section.integer("triplane_dim"),
        ),
        decoder=DecoderConfig(hidden=64, layers=3, activation="relu"),
        render=RenderSettings.openlrm(
            n_samples=samples, n_importance=samples, stratified=False, axes=OWN_AXES
        ),
        camera_distance=2.0,
        fov_deg=math.degrees(2 * math.atan(0.5 / 0.75)),
        foreground_ratio=0.8,
        input_background=1.0,
        mesh_level=3.0,
    )
    section.take("encoder_freeze", False)  # of training only
    section.finish({})
    return config


def published_names(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """OpenLRM's name of each parameter -> the names of ``state``, an `LRM`'s, that it holds.

    One, or three where OpenLRM keeps q, k and v of an attention in one matrix: wherever both sides
    of the attention have the same width.
    """
    names: dict[str, list[str]] = {}
    for own in state:
        prefix, other = next(pair for pair in PREFIXES if own.startswith(pair[0]))
        name = (other + own.removeprefix(prefix)).replace(".to_out.0.", ".out_proj.")
        attention = re.fullmatch(r"(.*_attn)\.to_([qkv])\.weight", name)
        if attention:
            stem, part = attention.groups()
            keys = own.replace(f".to_{part}.", ".to_k.")
            inner, width = state[keys].shape
            name = f"{stem}.in_proj_weight" if inner == width else f"{stem}.{part}_proj_weight"
        names.setdefault(name, []).append(own)
    return names


def published_shapes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint of OpenLRM must hold for an `LRM` of ``state``, as tensors on "meta"."""
    shapes = {}
    for name, own in published_names(state).items():
        parts = [torch.empty_like(state[n], device="meta") for n in own]
        if name == "pos_embed":
            parts = [parts[0].permute(0, 2, 3, 1).flatten(0, 2)[None]]
        shapes[name] = torch.cat(parts)
    return shapes


def own_tensors(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an OpenLRM checkpoint, of `published_shapes`, under the names of ``state``."""
    result = {}
    for name, own in published_names(state).items():
        tensor = tensors[name]
        if name == "pos_embed":
            planes, dim, rows, columns = state[own[0]].shape
            tensor = tensor.reshape(planes, rows, columns, dim).permute(0, 3, 1, 2).contiguous()
        result.update(zip(own, tensor.chunk(len(own)), strict=True))
    return result
