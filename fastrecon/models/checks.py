"""What a model refuses: sizes that do not go together, no pictures, no cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrecon.config import LRMConfig

from .modulated import CAMERA_WIDTH
from .triplane import GROUPS

RANGE_TOLERANCE = 0.01
"""How far a picture's values may leave [0, 1]: resampling and rounding, not another range."""
CHOICES = {
    "encoder.kind": ("dino", "dinov2"),
    "backbone.conditioning": ("none", "camera"),
    "position_init": ("random", "sincos"),
}


def check_model_config(config: LRMConfig) -> None:
    """Refuse sizes that do not go together, naming the field."""
    encoder, backbone = config.encoder, config.backbone
    fields = {
        **{f"encoder.{name}": value for name, value in vars(encoder).items()},
        **{f"backbone.{name}": value for name, value in vars(backbone).items()},
        "decoder.hidden": config.decoder.hidden,
        "decoder.layers": config.decoder.layers,
        "position_init": config.position_init,
    }
    for name, choices in CHOICES.items():
        if fields[name] not in choices:
            expected = " or ".join(map(repr, choices))
            raise ValueError(f"{name} must be {expected}, got {fields[name]!r}")
    registers = fields.pop("encoder.registers")
    if registers < 0 or (registers and encoder.kind != "dinov2"):
        raise ValueError(
            "encoder.registers must be 0, or at least 1 with encoder.kind 'dinov2'; got "
            f"{registers} with {encoder.kind!r}"
        )
    sizes = {name: value for name, value in fields.items() if name not in CHOICES}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for whole, part in (
        ("encoder.image_size", "encoder.patch_size"),
        ("encoder.dim", "encoder.heads"),
    ):
        if sizes[whole] % sizes[part]:
            raise ValueError(
                f"{whole} = {sizes[whole]} must be a multiple of {part} = {sizes[part]}"
            )
    if backbone.heads * backbone.head_dim != backbone.dim:
        raise ValueError(
            f"backbone.heads * backbone.head_dim must equal backbone.dim, got "
            f"{backbone.heads} * {backbone.head_dim} and {backbone.dim}"
        )
    if backbone.conditioning == "none" and backbone.dim % GROUPS:
        raise ValueError(f"backbone.dim must be a multiple of {GROUPS}, got {backbone.dim}")
    if not 0 <= config.input_background <= 1:
        raise ValueError(f"input_background must lie in [0, 1], got {config.input_background}")
    if config.position_init == "sincos" and (encoder.kind, backbone.conditioning) != (
        "dino",
        "none",
    ):
        raise ValueError(
            "position_init 'sincos' is made for encoder.kind 'dino' and backbone.conditioning "
            f"'none', got {encoder.kind!r} and {backbone.conditioning!r}; set it to 'random'"
        )


def check_cameras(config: LRMConfig, cameras: Tensor | None, batch: int) -> None:
    """Refuse cameras for a model that knows its own, and what is not one vector per picture."""
    if cameras is None:
        return
    if config.backbone.conditioning == "none":
        raise ValueError(
            "this model knows its input camera (config.camera_distance, config.fov_deg) and "
            "takes no cameras; leave cameras=None"
        )
    if not isinstance(cameras, Tensor):
        raise TypeError(f"cameras must be a torch.Tensor, got {type(cameras).__name__}")
    if cameras.shape != (batch, CAMERA_WIDTH) or not cameras.is_floating_point():
        raise ValueError(
            f"cameras must be ({batch}, {CAMERA_WIDTH}) floats, one vector per picture, got "
            f"{tuple(cameras.shape)} of {cameras.dtype}; make them with "
            "fastrecon.cameras.camera_vector(c2w, fov_deg)"
        )


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of square float pictures; values are looked at on a CPU only."""
    prepare = "(fastrecon.images.prepare_input)"
    check_pictures(
        "images",
        images,
        with_alpha=f"composite the object on the model's grey first {prepare}",
        not_square=f"pad them with 0.5 grey {prepare}",
    )


def check_pictures(
    name: str,
    pictures: Tensor,
    *,
    channels: int = 3,
    bits: int = 8,
    with_alpha: str = "composite them first",
    not_square: str = "crop them",
) -> None:
    """Refuse what is not square floats ``(B, channels, H, W)``; values are looked at on a CPU only.

    ``bits`` are those of the files that such pictures come from; ``with_alpha`` and ``not_square``
    say what to do about a fourth channel and about other sides.
    """
    if not isinstance(pictures, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(pictures).__name__}")
    shape = tuple(pictures.shape)
    expected = f"{name} must be (B, {channels}, H, W) in [0, 1]"
    if pictures.ndim == 3 and shape[0] == channels:
        raise ValueError(f"{expected}, got {shape}; add a batch dimension with {name}[None]")
    if pictures.ndim == 3 and channels == 1:
        raise ValueError(f"{expected}, got {shape}; add the channel with {name}[:, None]")
    if pictures.ndim == 4 and shape[-1] == channels and shape[1] != channels:
        raise ValueError(f"{expected}, got {shape}, channels last; pass {name}.permute(0, 3, 1, 2)")
    if pictures.ndim == 4 and shape[1] == 4 and channels == 3:
        raise ValueError(f"{expected}, got {shape}, with alpha; {with_alpha}")
    if pictures.ndim != 4 or shape[1] != channels:
        raise ValueError(f"{expected}, got {shape}")
    if shape[2] != shape[3] or not shape[2]:
        raise ValueError(f"{name} must be square, got {shape}; {not_square}")
    full = 2**bits - 1
    if not pictures.is_floating_point():
        raise TypeError(
            f"{name} must be floating point in [0, 1], got {pictures.dtype}; "
            f"pass {name}.float() / {full} for {bits}-bit pictures"
        )
    if pictures.device.type != "cpu" or not pictures.numel() or torch.compiler.is_compiling():
        return
    low, high = (float(x) for x in torch.aminmax(pictures.detach()))
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # false for NaN too
        raise ValueError(
            f"{expected}, got values from {low:g} to {high:g}; divide {bits}-bit values by {full}, "
            "undo any mean/std normalisation, and look for NaN"
        )
