"""f_trigen of G3DR: one picture and its depth in, a triplane of the whole scene out.

``TriGenConfig()`` has the size of the released network; `TriGen.from_pretrained` reads it. Planes
are read at several resolutions at once: build the pyramid once and render it from many cameras
(`fastrecon.scene_cameras` has the scene's).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from fastrecon_kernels import Decoder, Rendering, RenderSettings, build_pyramid
from torch import Tensor, nn

from fastrecon.config.g3dr import TriGenConfig
from fastrecon.renderer import TriplaneRenderer
from fastrecon.scene_cameras import depth_to_distance

from .trigen_checks import check_rgbd, check_trigen_config
from .unet import UNet

RGBD = 4
"""Channels of the input."""
VIEWING_SAMPLES = 64
"""Least coarse and fine samples for people to look at: fewer flicker (public code)."""

Planes = Tensor | Sequence[Tensor]
"""Planes ``(B, 3, C, P, P)``, or the levels that `TriGen.pyramid` made of them."""


class EqualisedLinear(nn.Module):
    """A linear layer whose weights are kept with variance 1 and scaled when used (EG3D).

    So every weight learns at the same rate, whatever the layer's width. ``weight (out, in)`` is the
    raw parameter, ``scaled`` is what multiplies.
    """

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_out, dim))
        self.bias = nn.Parameter(torch.zeros(dim_out))

    @property
    def scaled(self) -> Tensor:
        """``weight / sqrt(in)``, differentiable."""
        return self.weight * self.weight.shape[1] ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled, self.bias)


class EqualisedDecoder(nn.Module):
    """Feature -> hidden, softplus -> raw density and three colour logits."""

    def __init__(self, n_features: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            EqualisedLinear(n_features, hidden), nn.Softplus(), EqualisedLinear(hidden, 4)
        )

    @property
    def view(self) -> Decoder:
        """The scaled weights as the kernels take them; gradients reach the raw ones."""
        layers = [m for m in self.net if isinstance(m, EqualisedLinear)]
        return Decoder([m.scaled for m in layers], [m.bias for m in layers], "softplus")

    def forward(self, features: Tensor) -> Tensor:
        """``(..., n_features)`` -> ``(..., 4)`` before any activation."""
        return self.net(features)


class TriGen(nn.Module):
    """Scenes from RGB-D: ``encode``, then ``render`` or ``query`` the planes.

    World: the picture is taken from ``(-camera.radius, 0, 0)`` along +x; +z is right and +y up.
    The scene lies in ``[-render.radius, render.radius]^3``.
    """

    world_to_gltf = ((0, 0, 1), (0, 1, 0), (-1, 0, 0))
    """Rotation of this world to glTF's: x right, y up, z to the viewer."""

    def __init__(self, config: TriGenConfig | None = None) -> None:
        super().__init__()
        self.config = config = TriGenConfig() if config is None else config
        check_trigen_config(config)
        self.unet = UNet(
            in_channels=RGBD,
            out_channels=3 * config.channels,
            size=config.size,
            width=config.width,
            multipliers=config.multipliers,
            learned=config.learned,
            heads=config.heads,
            head_dim=config.head_dim,
        )
        stacked = 3 if config.render.reduction == "concat" else 1
        self.decoder = EqualisedDecoder(stacked * config.channels, config.hidden)
        self.renderer = TriplaneRenderer(config.render)

    @property
    def decoder_view(self) -> Decoder:
        """The decoder's scaled tensors, as ``fastrecon_kernels`` takes them."""
        return self.decoder.view

    @property
    def viewing_settings(self) -> RenderSettings:
        """``config.render`` with the samples that videos and figures want."""
        render = self.config.render
        fine = max(render.n_importance, VIEWING_SAMPLES) if render.n_importance else 0
        return replace(render, n_samples=max(render.n_samples, VIEWING_SAMPLES), n_importance=fine)

    def encode(self, images: Tensor, depth: Tensor) -> Tensor:
        """Planes ``(B, 3, channels, size, size)`` of pictures and their depth.

        Args:
            images: ``(B, 3, H, W)``, square, in [0, 1].
            depth: ``(B, 1, h, w)``, square, in [0, 1], 0 near: a share of the distance along the
                ray between the ends of ``config.camera.depth_range``.

        Both may have any size; they are resized to ``config.size`` (bilinear, antialiased), and
        values just beyond their range are clamped. Differentiable in both.

        Raises:
            ValueError, TypeError: wrong shape or dtype; on a CPU also NaN or values out of [0, 1]
                (on a GPU the check would wait for the device).
        """
        check_rgbd(images, depth)
        colours = 2 * self._resized(images) - 1
        distance = depth_to_distance(self._resized(depth), self.config.camera.depth_range)
        planes = self.unet(torch.cat([colours, distance], dim=1))
        return planes.unflatten(1, (3, self.config.channels))

    def _resized(self, pictures: Tensor) -> Tensor:
        size = (self.config.size, self.config.size)
        pictures = pictures.to(self.unet.conv_in.weight.dtype)
        if pictures.shape[-2:] != size:
            pictures = F.interpolate(
                pictures, size, mode="bilinear", align_corners=False, antialias=True
            )
        return pictures.clamp(0.0, 1.0)

    def pyramid(self, planes: Tensor, levels: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """The resolutions of the planes whose features are summed, for `render` and `query`.

        Args:
            planes: ``(B, 3, C, P, P)``.
            levels: which, as in ``config.levels``, the default: 0 is the planes themselves, each
                further one half the side. One that is named twice counts twice.
        """
        chosen = self.config.levels if levels is None else tuple(levels)
        if not chosen or min(chosen) < 0:
            raise ValueError(f"levels must name pyramid levels from 0 up, got {chosen}")
        built = build_pyramid(planes, max(chosen) + 1)
        return tuple(built[level] for level in chosen)

    def _levels(self, planes: Planes) -> Sequence[Tensor]:
        return self.pyramid(planes) if isinstance(planes, Tensor) else planes

    def render(
        self,
        planes: Planes,
        rays_o: Tensor,
        rays_d: Tensor,
        *,
        settings: RenderSettings | None = None,
        ts: Tensor | None = None,
        depth_prior: Tensor | None = None,
        **kwargs: Any,
    ) -> Rendering:
        """Render rays ``(B, ..., 3)``; ``fastrecon_kernels.render_rays`` with this model's decoder.

        Args:
            planes: ``(B, 3, C, P, P)``, or what `pyramid` made of them, to use it more than once.
            rays_o, rays_d: see `fastrecon.scene_cameras.scene_rays`.
            settings: ``config.render`` if None; `viewing_settings` for people.
            ts: ``(B, ..., S)`` increasing, instead of placed samples.
            depth_prior: ``(B, ...)`` known distance along each ray: gradients far from it are
                scaled down (the depth kernel), no value changes. NaN: not on that ray.
            **kwargs: ``seed``, ``per_sample``, ``precision``, ``backend``, ...

        Returns:
            Colours in ``settings.rgb_range``, for `pictures`; opacity; depth as distance. In eval
            mode with gradients off rays stop at a transmittance of 1e-3, unless the settings have
            an ``early_stop`` of their own.
        """
        return self.renderer(
            self._levels(planes),
            self.decoder_view,
            rays_o,
            rays_d,
            settings=settings,
            ts=ts,
            depth_prior=depth_prior,
            **kwargs,
        )

    def pictures(self, rendering: Rendering, settings: RenderSettings | None = None) -> Tensor:
        """Colours ``(B, ..., 3)`` of a rendering, mapped from ``rgb_range`` to [0, 1].

        Padding lets them leave it by 0.001; they are not clamped, so that gradients pass.
        """
        low, high = (self.config.render if settings is None else settings).rgb_range
        return (rendering.rgb - low) / (high - low)

    def query(self, planes: Planes, points: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Densities ``(B, ...)`` and colours ``(B, ..., 3)`` at points ``(B, ..., 3)``.

        Points are in scene units, colours in [0, 1] up to padding; keyword arguments are those of
        ``fastrecon_kernels.query_points``, and ``settings``.
        """
        return self.renderer.query(self._levels(planes), self.decoder_view, points, **kwargs)

    def forward(
        self, images: Tensor, depth: Tensor, rays_o: Tensor, rays_d: Tensor, **kwargs: Any
    ) -> Rendering:
        """``render(encode(images, depth), ...)``: one call, as distributed training needs it."""
        return self.render(self.encode(images, depth), rays_o, rays_d, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> TriGen:
        """A model in eval mode, with fp32 parameters, from a folder, a file or a hub id.

        Reads this package's own folders (``config.json`` + ``model.safetensors``) and checkpoints
        of the public code (``checkpoint_generic.pt``), whose sizes are those of their tensors and
        whose planes have EG3D's axes. A hub id is ``owner/name``, or ``owner/name/file``.

        Raises:
            CheckpointError: a missing, damaged, hostile or foreign file, or weights that do not
                fit the configuration by name and shape.
            ImportError: a hub id without huggingface_hub installed.
        """
        from fastrecon.interop.g3dr import read_pretrained

        config, tensors = read_pretrained(source, revision=revision)
        return cls.from_tensors(config, tensors).to(device)

    @classmethod
    def from_tensors(cls, config: TriGenConfig, tensors: Mapping[str, Tensor]) -> TriGen:
        """A model in eval mode that owns fp32 copies of ``tensors``, matched by name and shape.

        Raises:
            CheckpointError: names or shapes differ from those of ``config``.
        """
        from fastrecon.interop.pretrained import adopt

        model = cls.skeleton(config, len(tensors))
        adopt(model, tensors)
        return model.eval()

    @classmethod
    def skeleton(cls, config: TriGenConfig, n_tensors: int) -> TriGen:
        """The model of a file with ``n_tensors`` tensors, without values (on "meta").

        Raises:
            CheckpointError: ``config`` describes no model, or far too many layers for the file.
        """
        from fastrecon.interop.pretrained import build_skeleton

        return build_skeleton(lambda: cls(config), len(config.multipliers), n_tensors)

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
        from fastrecon.interop.g3dr import FORMAT
        from fastrecon.interop.pretrained import write_pretrained

        content = config_to_dict(self.config, FORMAT)
        write_pretrained(folder, content, self.state_dict(), dtype)
