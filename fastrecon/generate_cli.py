"""``fastrecon generate``: scenes from a class, a caption, or a picture with its depth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

PROG = "fastrecon generate"


@dataclass(frozen=True)
class Options:
    """Make 3D scenes: a class or a caption to pictures with depth, and those to scenes.

    fastrecon generate --class "golden retriever" -n 8 --diffusion D --trigen T -o out
    fastrecon generate --image photo.jpg --depth photo_depth.png --trigen T -o out

    Writes OUT/<name>/: image.png, depth.png (16 bits, 0 near), the video, the mesh,
    contact_sheet.png and scene.json (what it was made of). The same seed gives the same scenes.
    """

    trigen: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Weights from RGB-D to scenes (f_trigen): a folder, file or hub id."""
    diffusion: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = ""
    """Weights from classes to RGB-D (f_rgb): a folder or hub id; not with --image."""
    class_name: Annotated[str, tyro.conf.arg(name="class")] = ""
    """Class of the scenes, one that the weights know."""
    caption: str = ""
    """Any words, for weights that were trained with text."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Scenes."""
    image: Path | None = None
    """A picture to make a scene of."""
    depth: Path | None = None
    """Its depth, 16-bit grey, 0 near."""
    super_resolution: Annotated[str, tyro.conf.arg(metavar="none|bicubic|FOLDER")] = "none"
    """Double the video's side: "bicubic", or the folder of a trained network."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """Folder to write to."""
    seed: int = 0
    guidance: float | None = None
    """How much the class counts: scale of classifier-free guidance, 1 for none."""
    steps: int | None = None
    """DDIM steps."""
    frames: int = 60
    """Frames of the video."""
    video: Literal["gif", "mp4", "png"] = "gif"
    """"png" writes the frames one by one to frames/."""
    mesh: Literal["glb", "obj", "ply"] = "glb"
    """File format of the mesh (vertex colours in each)."""
    resolution: Annotated[int, tyro.conf.arg(metavar="N")] = 128
    """Grid points along a side of the box in which the mesh is cut."""
    level: float | None = None
    """Density at which the mesh is cut; the model's own if not given."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""

    @property
    def from_picture(self) -> bool:
        """Whether the diffusion is left out."""
        return self.image is not None

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense together."""
        for name, least in (("n", 1), ("frames", 1), ("resolution", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        asked = [bool(self.class_name), bool(self.caption), self.from_picture]
        if sum(asked) != 1:
            raise ValueError(
                "say what to make: one of --class NAME, --caption WORDS, or --image FILE with "
                "--depth FILE"
            )
        if self.from_picture != (self.depth is not None):
            raise ValueError(
                "--image and --depth belong together: the depth is 16-bit grey, 0 near, of the "
                "picture's size"
            )
        if self.from_picture and self.n != 1:
            raise ValueError(f"a picture gives one scene; leave out -n {self.n}")
        if not self.from_picture and not self.diffusion:
            raise ValueError(
                "a class or caption needs --diffusion FOLDER; train one (fastrecon train "
                "rgbd_autoencoder, then rgbd_diffusion), or give --image and --depth"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fastrecon generate``; returns the exit code (0: done, 1: failed, 2: misused)."""
    args = list(sys.argv[1:] if argv is None else argv)
    options = tyro.cli(Options, args=args, prog=PROG)
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    from .generate import generate

    try:
        return generate(options)
    except KeyboardInterrupt:
        return _complain("\nstopped; files written so far are whole", 130)
    except (ValueError, ImportError, OSError) as error:
        return _complain(error, 1)


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
