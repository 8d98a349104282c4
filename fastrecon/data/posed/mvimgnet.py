"""MVImgNet: ``class/instance/`` with ``images/`` and COLMAP's ``sparse/0``, masks inside or apart.

Masks lie in ``masks/`` (MVImgNet 2.0), or, as MVImgNet's own download has them, in a tree ``mask``
beside a tree ``image`` that holds the instances. The world is COLMAP's, so that up is no axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..camera_files import AGAIN, CollectionError, Matrix, inverse
from .collection import Kept
from .colmap import Model, read_model
from .real import Frame, Intrinsics, RealCollection

OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


class MVImgNet(RealCollection):
    """Instances of MVImgNet, or anything else that COLMAP reconstructed and that has masks."""

    layout = "mvimgnet"
    votes = True  # the cloud is of everything that was seen

    def __init__(
        self,
        path: Path,
        folders: Mapping[str, Path],
        size: int = 0,
        intrinsics: Intrinsics = "protocol",
    ) -> None:
        super().__init__(path, list(folders), size, intrinsics)
        self._folders = dict(folders)
        self._models: Kept[Model] = Kept(1)

    def _frames(self, index: int) -> list[Frame]:
        folder = self._folders[self.names[index]]
        model = self._model(index)
        if not model.w2c:
            raise CollectionError(f"{folder / 'sparse'} has no pictures; {AGAIN}")
        return [
            Frame(
                name,
                folder / "images" / name,
                _mask_path(folder, name),
                (lens.width, lens.height),
                lens.focal,
                lens.principal,
                inverse(model.w2c[name]) @ OPENCV_TO_OPENGL,
            )
            for name, lens in model.lenses.items()
        ]

    def _points(self, index: int) -> Matrix:
        return self._model(index).points

    def _model(self, index: int) -> Model:
        sparse = self._folders[self.names[index]] / "sparse"
        inner = sparse / "0" if (sparse / "0").is_dir() else sparse
        return self._models.get(index) or self._models.put(index, read_model(inner))


def _mask_path(folder: Path, name: str) -> Path:
    """Where the mask of a picture lies, or should."""
    tried = [
        place / file
        for place in _mask_folders(folder)
        for file in (f"{name}.png", f"{Path(name).stem}.png")
    ]
    return next((path for path in tried if path.is_file()), tried[0])


def _mask_folders(folder: Path) -> Iterator[Path]:
    yield folder / "masks"
    parts = folder.absolute().parts
    for k in range(len(parts) - 1, 0, -1):
        if parts[k] in ("image", "images"):
            yield Path(*parts[:k], parts[k].replace("image", "mask"), *parts[k + 1 :])
