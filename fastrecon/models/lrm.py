"""The large reconstruction model of TripoSR and Real3D: one picture in, a triplane out.

One module serves every size; at ``LRMConfig()`` its parameters have exactly the names and shapes of
the released checkpoints. Encoding (ViT, transformer, upsampling) happens once per picture, and the
planes are then rendered from any side or queried at any point.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch
import torch.nn.functional as F
from fastrecon_kernels import Decoder, Rendering, RenderSettings
from torch import Tensor, nn

from fastrecon.assets import SHIPPED_MODEL
from fastrecon.config import LRMConfig
from fastrecon.renderer import TriplaneRenderer

from .decoder import TriplaneDecoder
from .positions import match_attention, match_codes
from .triplane import GROUPS, PlaneTokens, PlaneUpsampler, TriplaneTransformer
from .vit import ImageTokenizer

RANGE_TOLERANCE = 0.01
"""How far a picture's values may leave [0, 1]: resampling and rounding, not another range."""


class LRM(nn.Module):
    """Single-view reconstruction: ``encode`` a picture, then ``render`` or ``query`` its planes.

    The input picture shows the object on 0.5 grey, seen from ``(camera_distance, 0, 0)`` towards
    the origin with +z up (all in ``config``).
    """

    def __init__(self, config: LRMConfig | None = None) -> None:
        super().__init__()
        self.config = config = LRMConfig() if config is None else config
        check_model_config(config)
        backbone = config.backbone
        stacked = 3 if config.render.reduction == "concat" else 1
        self.image_tokenizer = ImageTokenizer(config.encoder)
        self.tokenizer = PlaneTokens(backbone)
        self.backbone = TriplaneTransformer(backbone, context_dim=config.encoder.dim)
        self.post_processor = PlaneUpsampler(backbone)
        self.decoder = TriplaneDecoder(config.decoder, stacked * backbone.channels)
        self.renderer = TriplaneRenderer(config.render)
        if config.position_init == "sincos":
            table = self.image_tokenizer.model.embeddings.position_embeddings
            match_codes(config, table, self.tokenizer.embeddings)
            match_attention(self.backbone, self.tokenizer.embeddings)

    @property
    def decoder_view(self) -> Decoder:
        """The decoder's own tensors, as ``fastrecon_kernels`` takes them."""
        return self.decoder.view

    def encode(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        """Planes ``(B, 3, channels, P, P)`` of pictures ``(B, 3, H, W)``, square, in [0, 1].

        Pictures of another size than ``config.encoder.image_size`` are resized (bilinear,
        antialiased). Differentiable in the picture.

        Raises:
            ValueError, TypeError: wrong shape or dtype; on a CPU also NaN or values out of [0, 1]
                (on a GPU the check would wait for the device).
        """
        if cameras is not None:
            raise ValueError(
                "this model knows its input camera (config.camera_distance, config.fov_deg) and "
                "takes no cameras; leave cameras=None"
            )
        check_images(images)
        size = self.config.encoder.image_size
        if images.shape[-1] != size:
            images = F.interpolate(
                images, (size, size), mode="bilinear", align_corners=False, antialias=True
            )
        tokens = self.backbone(self.tokenizer(), self.image_tokenizer(images))
        return self.post_processor(tokens)

    def render(
        self,
        planes: Tensor,
        rays_o: Tensor,
        rays_d: Tensor,
        *,
        settings: RenderSettings | None = None,
        **kwargs: Any,
    ) -> Rendering:
        """Render rays ``(B, ..., 3)``; ``fastrecon_kernels.render_rays`` with this model's decoder.

        ``settings`` default to ``config.render``. Keyword arguments (``ts``, ``seed``,
        ``per_sample``, ``depth_prior``, ``occupancy``, ``precision``, ``backend``, ...) pass
        through. In eval mode with gradients off rays stop at a transmittance of 1e-3, unless the
        settings have an ``early_stop`` of their own.
        """
        return self.renderer(planes, self.decoder_view, rays_o, rays_d, settings=settings, **kwargs)

    def query(self, planes: Tensor, points: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Densities ``(B, ...)`` and colours ``(B, ..., 3)`` at points ``(B, ..., 3)``.

        Points are in scene units; keyword arguments are those of
        ``fastrecon_kernels.query_points``, and ``settings``.
        """
        return self.renderer.query(planes, self.decoder_view, points, **kwargs)

    def forward(self, images: Tensor, rays_o: Tensor, rays_d: Tensor, **kwargs: Any) -> Rendering:
        """``render(encode(images), ...)``: one call, as distributed training needs it."""
        return self.render(self.encode(images), rays_o, rays_d, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] = SHIPPED_MODEL,
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> LRM:
        """A model in eval mode, with fp32 parameters, from a folder, a file or a hub id.

        Without ``source``: the small model that comes with the package.

        Reads this package's own folders (``config.json`` + ``model.safetensors``), TripoSR's
        (``config.yaml`` + ``model.ckpt`` or ``model.safetensors``) and Real3D's
        ``model_both*.ckpt``. A hub id is ``owner/name``, or ``owner/name/file``.

        Raises:
            CheckpointError: a missing, damaged, hostile or foreign file, or weights that do not
                fit the configuration by name and shape.
            ImportError: a hub id without huggingface_hub installed.
        """
        from fastrecon.interop.checkpoints import read_pretrained

        config, tensors = read_pretrained(source, revision=revision)
        return cls.from_tensors(config, tensors).to(device)

    @classmethod
    def from_tensors(cls, config: LRMConfig, tensors: dict[str, Tensor]) -> LRM:
        """A model in eval mode that owns fp32 copies of ``tensors``, matched by name and shape.

        Raises:
            CheckpointError: names or shapes differ from those of ``config``.
        """
        from fastrecon.checkpoint import CheckpointError
        from fastrecon.interop.checkpoints import check_state_dict

        layers = config.encoder.depth + config.backbone.depth + config.decoder.layers
        if layers > len(tensors):  # before a damaged configuration builds a million layers
            raise CheckpointError(
                f"the configuration has {layers} layers but the file only {len(tensors)} tensors; "
                "check that they belong together"
            )
        try:
            with torch.device("meta"):  # no time spent on initial values that are replaced at once
                model = cls(config)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"the configuration describes no model: {error}") from error
        check_state_dict(tensors, model.state_dict())
        # Copied: a tensor read through a memory map must not follow what happens to its file.
        owned = {name: t.to("cpu", torch.float32, copy=True) for name, t in tensors.items()}
        model.load_state_dict(owned, assign=True)
        model.image_tokenizer.reset_statistics()
        return model.eval()

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` (atomic each) for ``from_pretrained``.

        ``dtype`` is that of the file, ``torch.float32`` or ``torch.float16``.

        Raises:
            ValueError: another dtype, or weights that are not finite in it.
            CheckpointError: the folder cannot be written.
        """
        from fastrecon.checkpoint import save_tensors, write_atomic
        from fastrecon.interop.checkpoints import CONFIG_JSON, WEIGHTS, config_to_dict

        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"dtype must be torch.float32 or torch.float16, got {dtype}")
        tensors = {name: t.detach().to("cpu", dtype) for name, t in self.state_dict().items()}
        bad = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
        if bad:
            raise ValueError(
                f"{len(bad)} parameters are not finite in {dtype}, the first is {bad[0]}; "
                "save an earlier model, or in float32 if only float16 overflows"
            )
        folder = os.fspath(folder)
        save_tensors(os.path.join(folder, WEIGHTS), tensors)
        text = json.dumps(config_to_dict(self.config), indent=2) + "\n"
        write_atomic(os.path.join(folder, CONFIG_JSON), text.encode())


def check_model_config(config: LRMConfig) -> None:
    """Refuse sizes that do not go together, naming the field."""
    encoder, backbone = config.encoder, config.backbone
    sizes = {
        **{f"encoder.{name}": value for name, value in vars(encoder).items()},
        **{f"backbone.{name}": value for name, value in vars(backbone).items()},
        "decoder.hidden": config.decoder.hidden,
        "decoder.layers": config.decoder.layers,
    }
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
    if backbone.dim % GROUPS:
        raise ValueError(f"backbone.dim must be a multiple of {GROUPS}, got {backbone.dim}")
    if config.position_init not in ("random", "sincos"):
        raise ValueError(
            f"position_init must be 'random' or 'sincos', got {config.position_init!r}"
        )


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of square float pictures; values are looked at on a CPU only."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    shape = tuple(images.shape)
    expected = "images must be (B, 3, H, W) in [0, 1]"
    if images.ndim == 3:
        raise ValueError(f"{expected}, got {shape}; add a batch dimension with images[None]")
    if images.ndim == 4 and shape[-1] == 3 and shape[1] != 3:
        raise ValueError(f"{expected}, got {shape}, channels last; pass images.permute(0, 3, 1, 2)")
    if images.ndim == 4 and shape[1] == 4:
        raise ValueError(
            f"{expected}, got {shape}, with alpha; composite the object on 0.5 grey first "
            "(fastrecon.images.prepare_input)"
        )
    if images.ndim != 4 or shape[1] != 3:
        raise ValueError(f"{expected}, got {shape}")
    if shape[2] != shape[3] or not shape[2]:
        raise ValueError(
            f"images must be square, got {shape}; pad them with 0.5 grey "
            "(fastrecon.images.prepare_input)"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point in [0, 1], got {images.dtype}; "
            "pass images.float() / 255 for 8-bit pictures"
        )
    if images.device.type != "cpu" or not images.numel() or torch.compiler.is_compiling():
        return
    low, high = (float(x) for x in torch.aminmax(images.detach()))
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # false for NaN too
        raise ValueError(
            f"{expected}, got values from {low:g} to {high:g}; divide 8-bit values by 255, "
            "undo any mean/std normalisation, and look for NaN"
        )
