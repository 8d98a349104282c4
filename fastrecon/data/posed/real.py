"""Photographed objects as Real3D evaluates them (section 6 of its protocol, appendix A).

Backgrounds are masked. All views of an object are cut to squares of one size around the centre of
the picture: 1.6 times the smallest centred square that holds the mask's box in the input view,
which is the view whose box is centred best. Poses are centred and scaled by the point cloud.

What the crop does to the camera is one of two things:

"protocol"  As published: the principal point is taken to be the centre of the crop, and the input
            view to have a field of view of 39.6 degrees, whatever its lens; the other views' focal
            lengths keep their ratio to the input's (f_i / f_0 f(39.6 deg)).
"measured"  The truth, for learning from the views: the crop is centred on the principal point, to
            the nearest pixel, and the field of view is that of the lens and the crop.

Lens distortion is ignored, as in the published code.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..camera_files import AGAIN, Cameras, CollectionError, Matrix, rigid
from ..picture_files import open_picture, read_bytes
from .collection import Collection, Kept, Picture

Intrinsics = Literal["protocol", "measured"]
PROTOCOL_FOV = 39.6
"""Degrees: 0.691150367 rad (Real3D)."""
CROP = 1.6
"""Side of the crop over that of the centred square around the mask's box (Real3D)."""
OBJECT_ALPHA = 225 / 255
"""Mask or alpha above this is the object, where a yes or no is needed (Real3D)."""
VOTES = 0.8
"""A point is the object's if it lies in more than this share of the masks (Real3D's code)."""
SPREAD = 0.95
"""Share of the points within distance 1 of the centre, after scaling."""
SQUARE = 0.03
"""Largest relative difference of the focal lengths along x and y."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Frame:
    """One photograph, its mask and camera, as a data set's files have them."""

    name: str
    image: Path
    mask: Path
    size: tuple[int, int]  # width, height that the intrinsics are for
    focal: tuple[float, float]  # pixels
    principal: tuple[float, float]  # pixels from the top left corner
    c2w: Matrix  # (4, 4) OpenGL, in the data set's own units


@dataclass(frozen=True, eq=False)
class Survey:
    """What has to be known of all of an object's photographs before one can be cut."""

    frames: tuple[Frame, ...]
    cameras: Cameras
    corners: tuple[tuple[int, int], ...]  # left, top of the crops
    side: int


class RealCollection(Collection):
    """Photographed objects; layouts say where files are and what they mean."""

    votes: bool
    """Whether points that the masks do not hold are background, or belong to the object too."""

    def __init__(
        self, path: Path, names: Sequence[str], size: int = 0, intrinsics: Intrinsics = "protocol"
    ) -> None:
        super().__init__(path, names, size)
        if intrinsics not in ("protocol", "measured"):
            raise ValueError(f'intrinsics must be "protocol" or "measured", got {intrinsics!r}')
        self.intrinsics = intrinsics
        self._surveys: Kept[Survey] = Kept()

    @abstractmethod
    def _frames(self, index: int) -> list[Frame]:
        """An object's photographs, in order."""

    @abstractmethod
    def _points(self, index: int) -> Matrix:
        """The points (N, 3) of an object's cloud, in the units of the frames' poses."""

    def _cameras(self, index: int) -> Cameras:
        return self._survey(index).cameras

    def _picture(self, index: int, view: int) -> Picture:
        survey = self._survey(index)
        frame, (left, top) = survey.frames[view], survey.corners[view]
        box = (left, top, left + survey.side, top + survey.side)
        photograph = open_picture(read_bytes(frame.image), str(frame.image), "RGB")
        mask = _mask(frame)
        if mask.size != photograph.size:  # some sets store smaller ones
            mask = mask.resize(photograph.size, Image.Resampling.NEAREST)
        rgb, alpha = np.asarray(photograph.crop(box)), np.asarray(mask.crop(box))
        return Picture(np.dstack([rgb * (alpha > 0)[..., None], alpha]))

    def _survey(self, index: int) -> Survey:
        return self._surveys.get(index) or self._surveys.put(index, self._surveyed(index))

    def _surveyed(self, index: int) -> Survey:
        name = f"{self.names[index]} in {self.path}"
        points = self._points(index)
        hits = np.zeros(len(points))
        kept: list[_Seen] = []
        for frame in self._frames(index):
            view, inside = _look(frame)
            if view is None:
                continue  # the object is not in it, so that it says nothing about the object
            kept.append(view)
            if self.votes:
                hits += _hits(points, view, inside)
        if not kept:
            raise CollectionError(f"no view of {name} shows the object: all masks are empty")
        weights = hits / len(kept) if self.votes else np.ones(len(points))
        chosen = weights > VOTES if self.votes else np.isfinite(points).all(-1)
        if not chosen.any():
            raise CollectionError(
                f"the point cloud of {name} has no point of the object, so that its centre is not "
                f"known; {AGAIN}"
            )
        centre = np.average(points[chosen], axis=0, weights=weights[chosen])
        scale = float(np.quantile(np.linalg.norm(points[chosen] - centre, axis=-1), SPREAD))
        if not scale > 0:
            raise CollectionError(f"the point cloud of {name} has no extent; {AGAIN}")
        return self._cut(kept, centre, scale, name)

    def _cut(self, views: list[_Seen], centre: Matrix, scale: float, name: str) -> Survey:
        """The crops and cameras, from what was seen and the cloud's centre and scale."""
        middles = np.array([view.middle for view in views])
        offsets = np.array([np.subtract(v.box[:2], v.middle) + v.box[2:] - v.middle for v in views])
        chosen = int(np.argmin(np.linalg.norm(offsets / middles.min(-1, keepdims=True), axis=-1)))
        if self.intrinsics == "measured":
            middles = np.array([view.principal for view in views])
        box, middle = views[chosen].box, middles[chosen]
        reach = max(np.abs(np.array(box[:2]) - middle).max(), np.abs(box[2:] - middle).max())
        side = math.ceil(CROP * 2 * reach)
        side += (round(2 * middle[0]) - side) % 2  # so that the crop begins at a whole pixel
        half = np.full(len(views), side / 2)
        if self.intrinsics == "protocol":
            half[:] = views[chosen].focal * math.tan(math.radians(PROTOCOL_FOV) / 2)
        focal = np.array([view.focal for view in views])
        c2w = rigid(np.stack([view.frame.c2w for view in views]), name)
        c2w[:, :3, 3] = (c2w[:, :3, 3] - centre) / scale
        cameras = Cameras(
            tuple(view.frame.name for view in views),
            c2w,
            np.degrees(2 * np.arctan(half / focal)),
            chosen,
        )
        corners = np.round(middles - side / 2).astype(int)
        return Survey(
            tuple(view.frame for view in views),
            cameras,
            tuple((int(left), int(top)) for left, top in corners),
            side,
        )


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame and where its mask has the object, in pixels of the photograph."""

    frame: Frame
    box: tuple[float, float, float, float]  # left, top, right, bottom
    middle: tuple[float, float]
    focal: float
    principal: tuple[float, float]


def _look(frame: Frame) -> tuple[_Seen | None, Mask]:
    """Where the mask has the object (None where it is empty), and the mask at its own size.

    Raises:
        CollectionError: a file is missing or damaged, or sizes do not belong together.
    """
    try:
        with Image.open(frame.image) as photograph:
            size = photograph.size
    except (OSError, SyntaxError, ValueError) as error:
        raise CollectionError(f"{frame.image} is missing or damaged ({error}); {AGAIN}") from error
    mask = _mask(frame)
    _check_shape(mask.size, size, frame.mask, frame.image)
    _check_shape(frame.size, size, f"the camera of {frame.name}", frame.image)
    inside = np.asarray(mask) > OBJECT_ALPHA * 255
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None, inside
    x, y = size[0] / mask.width, size[1] / mask.height
    box = (columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)
    x, y = size[0] / frame.size[0], size[1] / frame.size[1]
    focal = (frame.focal[0] * x, frame.focal[1] * y)
    if not min(focal) > 0 or abs(focal[0] - focal[1]) > SQUARE * min(focal):
        raise CollectionError(
            f"{frame.image} has focal lengths {focal[0]:g} and {focal[1]:g} px; pixels must be "
            "square, undistort the pictures first"
        )
    principal = (frame.principal[0] * x, frame.principal[1] * y)
    middle = (size[0] / 2, size[1] / 2)
    return _Seen(frame, box, middle, math.sqrt(focal[0] * focal[1]), principal), inside


def _mask(frame: Frame) -> Image.Image:
    return open_picture(read_bytes(frame.mask), str(frame.mask), "L")


def _check_shape(
    size: tuple[int, int], other: tuple[int, int], what: Path | str, image: Path
) -> None:
    """Sizes may differ by a factor, to the nearest pixel."""
    if abs(size[0] * other[1] - size[1] * other[0]) > max(*size, *other):
        raise CollectionError(
            f"{what} is for {size[0]} x {size[1]} px, but {image} has {other[0]} x {other[1]}; "
            "one of them belongs to another picture"
        )


def _hits(points: Matrix, view: _Seen, mask: Mask) -> Mask:
    """Which points (N, 3) lie in the view's mask (H, W): (N,)."""
    local = (points - view.frame.c2w[:3, 3]) @ view.frame.c2w[:3, :3]
    depth = -local[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = view.principal[0] + view.focal * local[:, 0] / depth
        y = view.principal[1] - view.focal * local[:, 1] / depth
    height, width = mask.shape
    x, y = x * (width / (2 * view.middle[0])), y * (height / (2 * view.middle[1]))
    hits = (depth > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    hits[hits] = mask[y[hits].astype(int), x[hits].astype(int)]
    return hits
