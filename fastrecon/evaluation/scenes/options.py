"""What ``fastrecon evaluate scenes`` and ``fastrecon evaluate generated`` can be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

PROCEDURAL = "procedural"


@dataclass(frozen=True)
class ProtocolOptions:
    """Counts, scales and networks of G3DR's protocol."""

    sigma_scales: tuple[float, ...] = (1.0, 5.0, 10.0, 50.0)
    """Densities are multiplied by each of these before rendering (Table S1)."""
    scenes: int = 256
    """Most scenes whose front is rendered, for PSNR, depth accuracy and non-flatness."""
    pictures: int = 50_000
    """Most scenes that are seen from a random side, for FID and IS."""
    inception_weights: str = ""
    """Inception weights of torch-fidelity, a file; without it there is neither FID nor IS."""
    super_resolution: str = "none"
    """Before FID and IS: "none", "bicubic", or the folder of a trained RCAN."""
    figures: bool = False
    """Also draw density scales (Fig. S1), pyramid levels (S2) and the depth kernel (S3)."""
    seed: int = 0
    """Of choices among pictures, random views and procedural scenes."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/scenes")
    """Folder to write to."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        for name, low in {"scenes": 1, "pictures": 1, "seed": 0}.items():
            if getattr(self, name) < low:
                given = getattr(self, name)
                raise ValueError(f"--{name} must be at least {low}, got {given}")
        if not self.sigma_scales or not min(self.sigma_scales) > 0:
            raise ValueError(f"--sigma-scales must be positive numbers, got {self.sigma_scales}")


@dataclass(frozen=True)
class SceneOptions:
    """Judge models that make scenes of pictures with depth, side by side.

    Writes OUT/scenes.json (every figure, its interval, its conditions), scenes.md and a sheet of
    pictures for each model.
    """

    weights: tuple[str, ...]
    """Checkpoints of f_trigen: folders, files or hub ids."""
    data: str = PROCEDURAL
    """Pictures with depth in class folders (Table S2: those of a data set), or "procedural": scenes
    whose other sides are known."""
    views: int = 4
    """Novel views of each procedural scene that are compared with the truth."""
    max_parts: int = 5
    """Of the procedural scenes' objects."""
    protocol: ProtocolOptions = field(default_factory=ProtocolOptions)

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        self.protocol.check()
        _check_weights("--weights", self.weights)
        for name in ("views", "max_parts"):
            if getattr(self, name) < 1:
                shown = name.replace("_", "-")
                raise ValueError(f"--{shown} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class GeneratedOptions:
    """Judge scenes made from nothing but a class: RGB-D diffusion, then f_trigen.

    Writes the same files as ``fastrecon evaluate scenes``.
    """

    diffusion: str
    """The RGB-D diffusion model's folder."""
    trigen: tuple[str, ...]
    """Checkpoints of f_trigen: folders, files or hub ids."""
    data: str = ""
    """Pictures with depth that FID compares with; without it there is no FID."""
    classes: tuple[str, ...] = ()
    """Classes to generate, in turn, by name or number; all if empty."""
    guidance: float | None = None
    """Scale of classifier-free guidance, 1 is none; the model's own if not given."""
    steps: int | None = None
    """Of the sampler; the model's own if not given."""
    protocol: ProtocolOptions = field(default_factory=ProtocolOptions)

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        self.protocol.check()
        _check_weights("--trigen", self.trigen)


def flat(options: SceneOptions | GeneratedOptions) -> dict[str, Any]:
    """Every option and the value that it has, by the name on the command line."""
    found: dict[str, Any] = {}
    for name, value in asdict(options).items():
        found |= value if isinstance(value, dict) else {name: value}
    return found


def _check_weights(name: str, weights: tuple[str, ...]) -> None:
    if not weights:
        raise ValueError(f"{name} names no model; give at least one folder")
    if len(set(weights)) < len(weights):
        raise ValueError(f"{name} names a model twice: {' '.join(weights)}")
