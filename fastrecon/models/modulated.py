"""From image tokens and an input camera to planes: OpenLRM's transformer (He and Wang 2024).

An LRM as Hong et al. (2024) describe it: every norm of a block is scaled and shifted by the
embedding of the camera that took the picture (adaLN), so one model serves many cameras. Blocks
attend to the image first and to themselves second; no attention has a bias.

OpenLRM's world is not this package's: its input camera stands at ``(0, -d, 0)``. With (x, y, z)
ours (x toward the input camera, y right, z up) and primes for OpenLRM's::

    x' = y    y' = -x    z' = z

Its planes are ``x'y'``, ``x'z'`` and ``z'y'`` (width axis first). `in_openlrm_world` takes cameras
in at the door and `in_own_world` brings planes out, so that nothing outside knows of the turn: a
released model renders with ``axes = OWN_AXES`` and this package's cameras.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastrecon.cameras import camera_vector, orbit_c2w
from fastrecon.config import BackboneConfig

from .triplane import Attention

LAYER_NORM_EPS = 1e-6
CAMERA_WIDTH = 16
"""c2w 3x4 row by row, then fx, fy, cx, cy in units of the picture's sides."""
OWN_AXES = ("yx", "yz", "zx")
"""OpenLRM's planes ``x'y'``, ``x'z'``, ``z'y'`` in this package's axes, rows along y' reversed."""


def in_openlrm_world(cameras: Tensor) -> Tensor:
    """Camera vectors ``(B, 16)`` of this package's world as OpenLRM would write them."""
    x, y, z = cameras[:, :12].chunk(3, dim=1)  # rows of c2w
    return torch.cat([y, -x, z, cameras[:, 12:]], dim=1)


def in_own_world(planes: Tensor) -> Tensor:
    """Planes ``(B, 3, C, P, P)`` over OpenLRM's axes as planes over `OWN_AXES`.

    Exact: the rows of the first and the third plane run along y' = -x and change their order.
    """
    first, second, third = planes.unbind(1)
    return torch.stack([first.flip(-2), second, third.flip(-2)], dim=1)


class CameraEmbedder(nn.Module):
    """Camera vectors ``(B, 16)``, or the canonical camera, -> embeddings ``(B, camera_dim)``.

    Args:
        config: its ``camera_dim``.
        distance, fov_deg: the canonical camera, which stands in where none is given.
    """

    canonical: Tensor

    def __init__(self, config: BackboneConfig, distance: float, fov_deg: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(CAMERA_WIDTH, config.camera_dim),
            nn.SiLU(),
            nn.Linear(config.camera_dim, config.camera_dim),
        )
        self.distance, self.fov_deg = distance, fov_deg
        self.register_buffer("canonical", torch.empty(1, CAMERA_WIDTH), persistent=False)
        self.reset_canonical()

    def reset_canonical(self) -> None:
        """Fill the canonical camera again: no checkpoint has it, and a meta build has no values."""
        device = next(self.parameters()).device
        with torch.device("cpu"):
            camera = camera_vector(orbit_c2w(0.0, 0.0, self.distance), self.fov_deg)
        self.canonical = camera[None].to(device)

    def forward(self, cameras: Tensor | None, batch: int) -> Tensor:
        """``cameras`` of this package's world; None stands for ``batch`` canonical ones."""
        if cameras is None:
            cameras = self.canonical.expand(batch, -1)
        return self.mlp(in_openlrm_world(cameras.to(self.canonical)))


class ModulatedTransformer(nn.Module):
    """``tokens (1 or B, N, dim)``, ``context (B, M, context_dim)``, ``camera (B, camera_dim)`` ->
    ``(B, N, dim)``."""

    def __init__(self, config: BackboneConfig, context_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ModulatedBlock(config, context_dim) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor, context: Tensor, camera: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, context, camera)
        return self.norm(tokens)


class ModulatedBlock(nn.Module):
    """Cross-attention to the image, self-attention, feed-forward; each after a modulated norm."""

    def __init__(self, config: BackboneConfig, context_dim: int) -> None:
        super().__init__()
        dim, heads, head_dim = config.dim, config.heads, config.head_dim
        self.norm1 = ModulatedNorm(dim, config.camera_dim)
        self.cross_attn = Attention(dim, context_dim, heads, head_dim, out_bias=False)
        self.norm2 = ModulatedNorm(dim, config.camera_dim)
        self.self_attn = Attention(dim, dim, heads, head_dim, out_bias=False)
        self.norm3 = ModulatedNorm(dim, config.camera_dim)
        # The identity stands where the original has its dropout: the output layer is `mlp.3`.
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim)
        )

    def forward(self, tokens: Tensor, context: Tensor, camera: Tensor) -> Tensor:
        tokens = tokens + self.cross_attn(self.norm1(tokens, camera), context)
        normed = self.norm2(tokens, camera)
        tokens = tokens + self.self_attn(normed, normed)
        return tokens + self.mlp(self.norm3(tokens, camera))


class ModulatedNorm(nn.Module):
    """``LN(x) * (1 + scale) + shift``, (shift, scale) from the camera (adaLN, Peebles and Xie)."""

    def __init__(self, dim: int, camera_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(camera_dim, 2 * dim))

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        normed = self.norm(tokens)
        shift, scale = self.mlp(camera)[:, None].to(normed.dtype).chunk(2, dim=-1)
        return normed * (1 + scale) + shift
