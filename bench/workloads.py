"""The two workloads that every figure names, A (Real3D, TripoSR) and B (G3DR), and one for a peer.

L is what Lightplane can express. All are 8 objects seen once each by 128 x 128 rays. Planes and
decoder are random (seeded, made on the CPU, so every device gets the same numbers) but vary on the
scale of an object, so that a parity check on them sees errors; cameras stand around the object at
the papers' distances.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fastrecon_kernels import Decoder, RenderSettings, build_pyramid
from torch import Tensor, nn

from bench.baselines.eg3d import Noise
from bench.case import Size
from bench.noise import uniform_noise
from fastrecon.cameras import camera_rays, orbit_c2w

VIEWS = 8
SEED = 0
"""Of stratified samples: every renderer gets the same ones."""
COARSE_SIDE = 12
"""Independent random texels along a plane; the others are interpolated."""


@dataclass
class Inputs:
    """What a renderer is called with."""

    planes: Tensor  # (B, 3, C, H, W)
    levels: tuple[Tensor, ...]  # the planes and their pyramid
    mlp: nn.Sequential
    rays_o: Tensor  # (B, N, 3)
    rays_d: Tensor  # (B, N, 3)
    settings: RenderSettings
    noise: Noise | None = None  # what `SEED` jitters stratified samples with

    @property
    def decoder(self) -> Decoder:
        """The MLP's own tensors."""
        return Decoder.from_mlp(self.mlp)

    @property
    def leaves(self) -> list[Tensor]:
        """Planes, level by level, and the MLP's weights and biases."""
        return [*self.levels, *self.mlp.parameters()]

    @property
    def n_samples(self) -> int:
        """Field evaluations of one forward pass, rays that miss included."""
        per_ray = self.settings.n_samples + self.settings.n_importance
        return math.prod(self.rays_o.shape[:-1]) * per_ray


@dataclass(frozen=True)
class Workload:
    """Sizes of one workload; `inputs` builds it."""

    name: str
    settings: RenderSettings
    plane_side: int
    channels: int
    n_levels: int
    hidden: tuple[int, ...]
    activation: type[nn.Module]
    distance: float
    fov_deg: float
    image_side: int = 128

    def make_mlp(self) -> nn.Sequential:
        """A random decoder, every layer standardised over normal features, the last to deviation 2.

        Left as initialised, nine layers give nearly the same output for every input.
        """
        reads = self.channels * (3 if self.settings.reduction == "concat" else 1)
        layers: list[nn.Module] = []
        x = torch.randn(4096, reads)
        for width_in, width_out in itertools.pairwise([reads, *self.hidden, 4]):
            linear = nn.Linear(width_in, width_out)
            with torch.no_grad():
                x = linear(x)
                scale = (1 if len(layers) < 2 * len(self.hidden) else 2) / x.std(0)
                shift = linear.bias - x.mean(0)
                linear.weight.mul_(scale[:, None])
                linear.bias.copy_(shift * scale)
                layers += [linear, self.activation()]
                x = layers[-1]((x - x.mean(0)) * scale)
        return nn.Sequential(*layers[:-1])

    def inputs(
        self,
        views: int = VIEWS,
        device: torch.device | str = "cpu",
        *,
        image_side: int | None = None,
        requires_grad: bool = False,
        seed: int = 0,
    ) -> Inputs:
        """Inputs of ``views`` objects, one view each.

        Args:
            views: B.
            image_side: side of the square picture whose rays are cast; the workload's own is 128.
            requires_grad: of planes and decoder.
            seed: of planes and decoder.
        """
        side = self.image_side if image_side is None else image_side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            coarse = torch.randn(views * 3, self.channels, COARSE_SIDE, COARSE_SIDE)
            mlp = self.make_mlp()
        size = (self.plane_side, self.plane_side)
        planes = F.interpolate(coarse, size=size, mode="bicubic").unflatten(0, (views, 3))
        planes = planes.to(device).requires_grad_(requires_grad)
        mlp = mlp.to(device).requires_grad_(requires_grad)
        azimuth = torch.arange(views) * (2 * math.pi / VIEWS)
        c2w = orbit_c2w(azimuth, math.radians(20.0), self.distance)
        rays_o, rays_d = camera_rays(c2w, side, side, self.fov_deg)
        return Inputs(
            planes,
            build_pyramid(planes, self.n_levels),
            mlp,
            rays_o.flatten(1, 2).contiguous().to(device),
            rays_d.flatten(1, 2).contiguous().to(device),
            self.settings,
        )

    def problem(self, size: Size, device: torch.device, requires_grad: bool) -> Inputs:
        """Inputs for a benchmark: the middle rows of each picture, every level a leaf.

        The middle, for rows through the object say more than the empty top of a picture; fewer
        rays than a row are the middle of the middle row.
        """
        x = self.inputs(size.views, device, image_side=size.image_side)
        side = size.image_side
        rows, rest = divmod(size.rays, side)
        start = (side - rows) // 2 * side + (0 if rows else (side - rest) // 2)
        x.rays_o, x.rays_d = (
            rays[:, start : start + size.rays].contiguous() for rays in (x.rays_o, x.rays_d)
        )
        x.levels = tuple(level.requires_grad_(requires_grad) for level in x.levels)
        x.planes = x.levels[0]
        x.mlp.requires_grad_(requires_grad)
        if x.settings.stratified:
            x.noise = uniform_noise(x.settings, size.views, size.rays, seed=SEED, device=device)
        return x


A = Workload(
    name="A",
    settings=RenderSettings.triposr(),
    plane_side=64,
    channels=40,
    n_levels=1,
    hidden=(64,) * 9,
    activation=nn.SiLU,
    distance=1.9,
    fov_deg=40.0,
)
B = Workload(
    name="B",
    settings=RenderSettings.g3dr(),
    plane_side=128,
    channels=64,
    n_levels=3,
    hidden=(64,),
    activation=nn.Softplus,
    distance=5.0,
    fov_deg=18.0,
)
WORKLOADS = {"A": A, "B": B}
L = Workload(
    name="L",
    settings=RenderSettings(
        near_far=(1.7, 3.7),
        reduction="sum",
        density_activation="softplus",
        density_shift=0.0,
        background="black",
    ),
    plane_side=32,
    channels=32,
    n_levels=1,
    hidden=(32,) * 3,
    activation=nn.ReLU,
    distance=2.7,
    fov_deg=30.0,
)
"""Planes, widths and depth of Lightplane's own speed test, whose 2 + 2 layers are 4 here.

Every ray passes within a unit of the middle of the box, where it has all its samples; those out of
the box read zeros. See `bench.baselines.lightplane` for what its formula leaves to choose.
"""
