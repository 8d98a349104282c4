"""FID: the distance between two collections of pictures as Gaussians of Inception features.

The features come from torch-fidelity's Inception, whose weights (2015, converted from TensorFlow)
are the ones that published figures are made with; others give other numbers, so they are asked for
and checked, never replaced.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEATURES = "2048"
"""torch-fidelity's name of the last pooling layer, and the number of its features."""
LOGITS = "logits_unbiased"
"""Its name of the class scores that the inception score is made with, and always was."""
BATCH = 32
"""Pictures per pass of the network."""
FEWEST = 2
"""Pictures that a covariance needs."""

Extractor = Callable[[Tensor], Tensor]
"""Pictures (N, 3, H, W) in [0, 1] -> features (N, D)."""
Network = Callable[[Tensor], tuple[Tensor, ...]]
"""Pictures (N, 3, H, W) in [0, 1] -> what several layers make of them, (N, D) each."""


class FidError(ValueError):
    """The Inception network cannot be had; the message says what to do."""


class Fid(NamedTuple):
    """A distance, and the pictures it is of: it falls with their number."""

    value: float
    pictures: int
    references: int


def frechet_distance(features: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Frechet distance of the Gaussians fitted to features ``(N, D)`` and ``(M, D)``; FID, Eq. 6.

    ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))``, with sample covariances. With centred
    features A, B over the square roots of N - 1, M - 1, the eigenvalues of C1 C2 are the squared
    singular values of A B^T, so the last trace is the sum of those: no matrix square root, no
    imaginary parts, nothing added to a diagonal, exact also for fewer pictures than features.

    Raises:
        ValueError: fewer than two rows, rows of different lengths, or values that are not finite.
    """
    if features.ndim != 2 or other.ndim != 2 or features.shape[1] != other.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), got {features.shape} and {other.shape}"
        )
    if min(len(features), len(other)) < FEWEST:
        raise ValueError(
            f"a covariance needs at least {FEWEST} pictures, got {len(features)} and {len(other)}"
        )
    x, y = features.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the features are not finite; look for NaN in the pictures")
    mean_x, mean_y = x.mean(0), y.mean(0)
    a, b = _root(x - mean_x), _root(y - mean_y)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = np.square(mean_x - mean_y).sum() + np.square(a).sum() + np.square(b).sum()
    return max(0.0, float(distance - 2.0 * overlap))


def _root(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix R with at most D rows whose R^T R is the sample covariance."""
    scaled = centred / np.sqrt(len(centred) - 1)
    if len(scaled) <= scaled.shape[1]:
        return scaled
    return np.asarray(np.linalg.qr(scaled, mode="r"))


class FidMeter:
    """Collects the features of two kinds of pictures."""

    def __init__(self, extract: Extractor) -> None:
        self.extract = extract
        self.found: list[Tensor] = []
        self.references: list[Tensor] = []

    def add(self, pictures: Tensor, references: Tensor) -> None:
        """Pictures to judge ``(N, 3, H, W)`` and those to be like ``(M, 3, H, W)``, in [0, 1]."""
        self.found.append(self.extract(pictures).float().cpu())
        self.references.append(self.extract(references).float().cpu())

    def result(self) -> Fid | None:
        """The distance; None with fewer than two pictures of a kind."""
        if not self.found:
            return None
        found, references = (torch.cat(x).numpy() for x in (self.found, self.references))
        if min(len(found), len(references)) < FEWEST:
            return None
        return Fid(frechet_distance(found, references), len(found), len(references))


def load_inception(weights: str, device: torch.device | str = "cpu") -> Extractor:
    """The features of torch-fidelity's Inception with the weights of a file; see `load_layers`."""
    network = load_layers(weights, [FEATURES], device)
    return lambda pictures: network(pictures)[0]


def load_layers(weights: str, layers: list[str], device: torch.device | str = "cpu") -> Network:
    """Layers of torch-fidelity's Inception with the weights of a file.

    Raises:
        FidError: no such file, or one that does not hold these weights.
        ImportError: torch-fidelity is not installed.
    """
    path = Path(weights)
    if not path.is_file():
        raise FidError(
            f"--inception-weights: {path} does not exist; download "
            "weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release v0.2.0"
        )
    build = _network()
    try:
        # read safely here: torch-fidelity itself would run whatever the file pickles
        state = torch.load(path, map_location="cpu", weights_only=True)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        network = build("inception-v3-compat", layers, feature_extractor_weights_path=file)
    except Exception as error:  # pickle, zip and torch each have errors of their own
        raise FidError(
            f"--inception-weights: {path} does not hold torch-fidelity's Inception weights "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "download weights-inception-2015-12-05-6726825d.pth of its release v0.2.0"
        ) from error
    network.to(device)

    @torch.no_grad()
    def extract(pictures: Tensor) -> tuple[Tensor, ...]:
        bytes_ = pictures.to(device).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
        found = [network(part) for part in bytes_.split(BATCH)]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    return extract


def _network():
    """torch-fidelity's class, imported where it is needed."""
    try:
        from ..perceptual.libraries import import_torchvision

        import_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found]
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise ImportError(
            f'FID needs torch-fidelity ({error}); pip install "fastrecon[eval]"'
        ) from error
    return FeatureExtractorInceptionV3
