"""The large reconstruction model of TripoSR, Real3D and OpenLRM: one picture in, a triplane out.

One module serves every size; at ``LRMConfig()`` its parameters have exactly the names and shapes of
TripoSR's released checkpoint. Encoding (ViT, transformer, upsampling) happens once per picture, and
the planes are then rendered from any side or queried at any point.

With ``config.backbone.conditioning`` "camera" the transformer is OpenLRM's and also reads which
camera took the picture. World, cameras and planes are this package's all the same: see `modulated`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from fastrecon_kernels import Decoder, Rendering, RenderSettings
from torch import Tensor, nn

from fastrecon.assets import SHIPPED_MODEL
from fastrecon.config import LRMConfig
from fastrecon.renderer import TriplaneRenderer

from .checks import check_cameras, check_images, check_model_config
from .decoder import TriplaneDecoder
from .dinov2 import Dinov2Tokenizer
from .modulated import CameraEmbedder, ModulatedTransformer, in_own_world
from .positions import match_attention, match_codes
from .triplane import PlaneTokens, PlaneUpsampler, TriplaneTransformer
from .vit import ImageTokenizer


class LRM(nn.Module):
    """Single-view reconstruction: ``encode`` a picture, then ``render`` or ``query`` its planes.

    The input picture shows the object on ``input_background`` (0.5 grey), seen from
    ``(camera_distance, 0, 0)`` towards the origin with +z up (all in ``config``).
    """

    world_to_gltf = ((0, 1, 0), (0, 0, 1), (1, 0, 0))
    """Rotation of this world (x to the viewer, y right, z up) to glTF's (x right, y up)."""

    def __init__(self, config: LRMConfig | None = None) -> None:
        super().__init__()
        self.config = config = LRMConfig() if config is None else config
        check_model_config(config)
        backbone = config.backbone
        stacked = 3 if config.render.reduction == "concat" else 1
        tokenizer = Dinov2Tokenizer if config.encoder.kind == "dinov2" else ImageTokenizer
        self.image_tokenizer = tokenizer(config.encoder)
        self.tokenizer = PlaneTokens(backbone)
        if backbone.conditioning == "camera":
            self.camera_embedder = CameraEmbedder(backbone, config.camera_distance, config.fov_deg)
            self.backbone = ModulatedTransformer(backbone, context_dim=config.encoder.dim)
        else:
            self.backbone = TriplaneTransformer(backbone, context_dim=config.encoder.dim)
        self.post_processor = PlaneUpsampler(backbone)
        self.decoder = TriplaneDecoder(config.decoder, stacked * backbone.channels)
        self.renderer = TriplaneRenderer(config.render)
        if config.position_init == "sincos":
            assert isinstance(self.image_tokenizer, ImageTokenizer)
            assert isinstance(self.backbone, TriplaneTransformer)
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

        Args:
            images: the pictures.
            cameras: ``(B, 16)`` of `fastrecon.cameras.camera_vector`, each picture's own, for a
                model with ``config.backbone.conditioning`` "camera" only. None is the canonical
                camera at ``config.camera_distance`` with ``config.fov_deg``. OpenLRM was trained on
                cameras of canonical direction, at many distances; planes are in the cameras' world.

        Raises:
            ValueError, TypeError: wrong shape or dtype; on a CPU also NaN or values out of [0, 1]
                (on a GPU the check would wait for the device).
        """
        check_images(images)
        check_cameras(self.config, cameras, len(images))
        size = self.config.encoder.image_size
        if images.shape[-1] != size:
            images = F.interpolate(
                images, (size, size), mode="bilinear", align_corners=False, antialias=True
            )
        context = self.image_tokenizer(images)
        if self.config.backbone.conditioning == "none":
            return self.post_processor(self.backbone(self.tokenizer(), context))
        camera = self.camera_embedder(cameras, len(images))
        tokens = self.backbone(self.tokenizer(), context, camera)
        return in_own_world(self.post_processor(tokens))

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

    def forward(
        self,
        images: Tensor,
        rays_o: Tensor,
        rays_d: Tensor,
        *,
        cameras: Tensor | None = None,
        **kwargs: Any,
    ) -> Rendering:
        """``render(encode(images, cameras), ...)``: one call, as distributed training needs it."""
        return self.render(self.encode(images, cameras), rays_o, rays_d, **kwargs)

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
        (``config.yaml`` + ``model.ckpt`` or ``model.safetensors``), Real3D's ``model_both*.ckpt``
        and OpenLRM 1.1's (``config.json`` + ``model.safetensors`` or ``pytorch_model.bin``). A hub
        id is ``owner/name``, or ``owner/name/file``.

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
        from fastrecon.interop.pretrained import adopt

        model = cls.skeleton(config, len(tensors))
        adopt(model, tensors)
        model.reset_constants()
        return model.eval()

    @classmethod
    def skeleton(cls, config: LRMConfig, n_tensors: int) -> LRM:
        """The model of a file with ``n_tensors`` tensors, without values (on "meta").

        Raises:
            CheckpointError: ``config`` describes no model, or far too many layers for the file.
        """
        from fastrecon.interop.pretrained import build_skeleton

        layers = config.encoder.depth + config.backbone.depth + config.decoder.layers
        return build_skeleton(lambda: cls(config), layers, n_tensors)

    def reset_constants(self) -> None:
        """Fill the buffers that no checkpoint holds; a model built on "meta" has no values."""
        if isinstance(self.image_tokenizer, ImageTokenizer):
            self.image_tokenizer.reset_statistics()
        if self.config.backbone.conditioning == "camera":
            self.camera_embedder.reset_canonical()

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` (atomic each) for ``from_pretrained``.

        ``dtype`` is that of the file, ``torch.float32`` or ``torch.float16``.

        Raises:
            ValueError: another dtype, or weights that are not finite in it.
            CheckpointError: the folder cannot be written.
        """
        from fastrecon.interop.checkpoints import config_to_dict
        from fastrecon.interop.pretrained import write_pretrained

        write_pretrained(folder, config_to_dict(self.config), self.state_dict(), dtype)
