"""What ``fastrecon evaluate`` can be told."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..config import NetworksConfig
from ..data.meshes.mesh import Up
from ..recipes import RECONSTRUCTION_RECIPES

GRID = "grid"


@dataclass(frozen=True)
class ObjectOptions:
    """Held-out procedural objects and meshes: views and surfaces against the truth."""

    recipe: str = "small"
    """Whose procedural objects are held out: the recipe that the model was trained with."""
    objects: int | None = None
    """Held-out procedural objects; 0 leaves them out. 64 unless --posed or --photos are named."""
    views: int = 8
    """Random views per object."""
    size: int | None = None
    """Side of the pictures that are compared, pixels: 64; 224 under --protocol real3d."""
    meshes: tuple[str, ...] = ()
    """GLB, OBJ and PLY files, folders (searched with their subfolders), or quoted globs."""
    mesh_objects: int = 64
    """Most meshes to take; of more, a seeded choice, spread over the folders."""
    up: Up = "y"
    """Axis of the mesh files that points up: y (glTF, most OBJ) or z (CAD, robotics)."""
    resolution: int | None = None
    """Grid points along a side of the box in which meshes are cut: 96; 256 under real3d."""
    points: int | None = None
    """Points on each surface for Chamfer distance and F-score: 10,000; 100,000 under real3d."""


@dataclass(frozen=True)
class PictureOptions:
    """Posed pictures and photographs, as Real3D evaluates them (its appendix A)."""

    posed: str = ""
    """Objects with pictures from known cameras: a folder or shards; novel views are compared."""
    layout: str = "auto"
    """Of --posed: gobjaverse, zero123, nerf, co3d, mvimgnet or shards."""
    photos: str = ""
    """Single pictures with alpha, a folder or shards: the input view, views around it
    (meaning), and the way there and back (self-consistency)."""
    instances: int = 100
    """Most objects of --posed; of more, a seeded choice."""
    pictures: int = 1000
    """Most pictures of --photos; of more, a seeded choice."""
    targets: int = 0
    """Views compared per object; 0: 5 for co3d and mvimgnet, 10 for others."""
    picture_size: int = 224
    """Side of the pictures that are compared, pixels."""
    camera_distance: str = ""
    """Of the input camera, scene units; the model's if empty. "grid": the distance that scores
    best on --posed itself."""
    fov: float | None = None
    """Field of view of the input camera, degrees; the model's, or that of uncropped pictures."""
    crop: float = 0.0
    """Side of the input picture over its object's; 0: --posed as it is (co3d and mvimgnet: 1.6),
    --photos as the model expects them."""
    semantic: bool = False
    """Judge the meaning of views around for --posed too: LPIPS, CLIP similarity, FID."""
    self_consistency: bool = False
    """Go there and back for --posed too."""


@dataclass(frozen=True)
class JudgeOptions:
    """Networks that judge pictures; what cannot be had is named in the report and left out."""

    perceptual: Literal["lpips", "ssim", "none"] = "lpips"
    """"lpips" (VGG-16), "ssim" (L1 + 1 - SSIM, needs no weights) or "none"."""
    lpips_weights: str = ""
    """VGG-16 backbone for LPIPS, a file; if empty, torchvision's, downloaded once."""
    clip_weights: str = ""
    """CLIP ViT-B/16 weights, a file; if empty, OpenAI's through open_clip, downloaded once."""
    inception_weights: str = ""
    """Inception weights of torch-fidelity, a file; without it there is no FID."""

    @property
    def networks(self) -> NetworksConfig:
        """The same as models are trained with."""
        return NetworksConfig(self.perceptual, self.lpips_weights, self.clip_weights)

    @property
    def files(self) -> dict[str, Path]:
        """The files that were named, by option."""
        named = {name: getattr(self, name) for name in asdict(self) if name.endswith("_weights")}
        return {name: Path(path) for name, path in named.items() if path}


@dataclass(frozen=True)
class EvaluateOptions:
    """Compare a model's reconstructions of objects that it never saw with the truth.

    On procedural objects and meshes two baselines stand beside it: the mean image, and the extruded
    silhouette. Writes OUT/evaluation.json (every figure, its interval, its conditions), tables.md,
    gain_by_angle.png and sheets of pictures. Models of scenes have commands of their own: fastrecon
    evaluate scenes --help, fastrecon evaluate generated --help.
    """

    weights: str = ""
    """Checkpoint folder, file or hub id (ours, TripoSR's, Real3D's); the shipped model if empty."""
    protocol: Literal["ours", "real3d"] = "ours"
    """"real3d": meshes cut at 256^3, 100,000 points on each, pictures of 224 pixels. Posed pictures
    and photographs are evaluated by its protocol in any case."""
    seed: int = 0
    """Of choices among objects, the meshes' turns and views, and of the points."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/evaluation")
    """Folder to write to."""
    markdown: Path | None = None
    """Also write the tables here; in a file that exists, between the lines that its error names."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""
    held_out: ObjectOptions = field(default_factory=ObjectOptions)
    pictures: PictureOptions = field(default_factory=PictureOptions)
    judges: JudgeOptions = field(default_factory=JudgeOptions)

    @property
    def objects(self) -> int:
        """Procedural objects."""
        chosen, pictures = self.held_out.objects, self.pictures
        if chosen is None:
            return 0 if pictures.posed or pictures.photos else 64
        return chosen

    @property
    def size(self) -> int:
        """Side of the pictures of procedural objects and meshes, pixels."""
        return self._by_protocol(self.held_out.size, 64, 224)

    @property
    def resolution(self) -> int:
        """Grid points along a side of the meshes' box."""
        return self._by_protocol(self.held_out.resolution, 96, 256)

    @property
    def points(self) -> int:
        """Points on each surface."""
        return self._by_protocol(self.held_out.points, 10_000, 100_000)

    @property
    def distance(self) -> float | None:
        """The distance that was given as a number."""
        given = self.pictures.camera_distance
        return float(given) if given and given != GRID else None

    def _by_protocol(self, given: int | None, ours: int, real3d: int) -> int:
        return given if given is not None else real3d if self.protocol == "real3d" else ours

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        held_out, pictures = self.held_out, self.pictures
        least = {
            "objects": (self.objects, 0),
            "views": (held_out.views, 1),
            "size": (self.size, 7),
            "mesh-objects": (held_out.mesh_objects, 1),
            "resolution": (self.resolution, 4),
            "points": (self.points, 1),
            "seed": (self.seed, 0),
            "instances": (pictures.instances, 1),
            "pictures": (pictures.pictures, 1),
            "targets": (pictures.targets, 0),
            "picture-size": (pictures.picture_size, 7),
        }
        for name, (value, low) in least.items():
            if value < low:
                raise ValueError(f"--{name} must be at least {low}, got {value}")
        if not (self.objects or held_out.meshes or pictures.posed or pictures.photos):
            raise ValueError(
                "nothing to evaluate: --objects is 0 and no --meshes, --posed or --photos are named"
            )
        if held_out.recipe not in RECONSTRUCTION_RECIPES:
            known = ", ".join(RECONSTRUCTION_RECIPES)
            raise ValueError(f"--recipe must be one of {known}, got {held_out.recipe!r}")
        self._check_camera()

    def _check_camera(self) -> None:
        pictures = self.pictures
        try:
            distance = self.distance
        except ValueError:
            distance = math.nan
        if distance is not None and not 0 < distance < math.inf:
            raise ValueError(
                f'--camera-distance must be a positive number or "{GRID}", got '
                f"{pictures.camera_distance!r}"
            )
        if pictures.camera_distance == GRID and not pictures.posed:
            raise ValueError(f"--camera-distance {GRID} compares novel views, so it needs --posed")
        if pictures.fov is not None and not 0 < pictures.fov < 180:
            raise ValueError(f"--fov must lie between 0 and 180 degrees, got {pictures.fov}")
        if pictures.crop != 0 and not 1 <= pictures.crop < math.inf:
            raise ValueError(f"--crop must be 0 or at least 1, got {pictures.crop}")

    def flat(self) -> dict[str, Any]:
        """Every option and the value that it has, by the name on the command line."""
        found: dict[str, Any] = {}
        for name, value in asdict(self).items():
            found |= value if isinstance(value, dict) else {name: value}
        return found | {n: getattr(self, n) for n in ("objects", "size", "resolution", "points")}
