"""Where scenes to judge come from: a data set, the procedural ones, or a diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...config.g3dr import TriGenConfig
from ...data.choice import parted
from ...data.procedural.scenes import rgbd_scenes
from ...data.rgbd import RGBD, RGBDBatch, RGBDError, RGBDSet, open_rgbd
from ...models.rgbd import RGBDDiffusion
from ...models.rgbd.diffusion import RGBDSamples
from ..scene_validation import HELD_OUT, SceneSet, stacked

CHUNK = 16
"""Scenes that are made, read and rendered at a time."""
SEED_STEP = 1_000_003
"""Between the random numbers of two seeds: more than chunks are apart."""


class SceneSource(Protocol):
    """A numbered sequence of pictures with depth, in random order."""

    @property
    def title(self) -> str:
        """What they are, for the report."""
        ...

    @property
    def skipped(self) -> dict[str, str]:
        """Pictures that could not be used, and why."""
        ...

    def __len__(self) -> int: ...

    def batch(self, first: int, count: int, model: TriGenConfig) -> RGBDBatch:
        """Up to ``count`` pictures from number ``first``, for a model; fewer where some cannot be
        used."""
        ...

    def scene_set(self, count: int, model: TriGenConfig) -> SceneSet:
        """The first ``count``, with whatever is known of their other sides."""
        ...

    def references(self, inputs: RGBDBatch, first: int) -> Tensor | None:
        """Real pictures (N, 3, S, S) to compare with, as many as ``inputs``; None without any."""
        ...


@dataclass
class FileScenes:
    """The pictures of class folders, in an order drawn from the seed."""

    path: str
    seed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.samples: RGBDSet = open_rgbd(self.path)
        self.order = parted(self.seed, len(self.samples), 1.0)

    @property
    def title(self) -> str:
        """The folder and its size."""
        classes = len(self.samples.classes)
        return f"{self.path}, {len(self)} pictures in {classes} classes"

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, first: int, count: int, model: TriGenConfig) -> RGBDBatch:
        """See ``SceneSource``."""
        found: list[RGBD] = []
        for i in self.order[first : first + count]:
            try:
                found.append(self.samples.sample(i))
            except RGBDError as error:
                self.skipped[self.samples.names[i]] = str(error)
        if not found:
            return _empty(model.size)
        return stacked(found, model.size)

    def scene_set(self, count: int, model: TriGenConfig) -> SceneSet:
        """See ``SceneSource``.

        Raises:
            RGBDError: none of them can be used.
        """
        batch = self.batch(0, count, model)
        if not len(batch.images):
            why = next(iter(self.skipped.values()))
            raise RGBDError(f"{self.path} has no usable picture with depth; the first: {why}")
        return SceneSet.without_truth(batch, model.camera)

    def references(self, inputs: RGBDBatch, first: int) -> Tensor | None:
        """The inputs are real pictures themselves."""
        return inputs.images


@dataclass
class ProceduralScenes:
    """Held-out procedural scenes."""

    seed: int = 0
    views: int = 4
    max_parts: int = 5
    count: int = 50_000
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What they are."""
        return "held-out procedural scenes"

    def __len__(self) -> int:
        return self.count

    def batch(self, first: int, count: int, model: TriGenConfig) -> RGBDBatch:
        """See ``SceneSource``."""
        start = HELD_OUT + first
        seen = rgbd_scenes(
            self.seed,
            range(start, start + count),
            model.size,
            model.camera,
            max_parts=self.max_parts,
        )
        labels = torch.zeros(count, dtype=torch.long)
        return RGBDBatch(seen.images[:, 0], seen.depth(model.camera)[:, 0], labels)

    def scene_set(self, count: int, model: TriGenConfig) -> SceneSet:
        """See ``SceneSource``."""
        return SceneSet.procedural(
            self.seed, count, model.size, model.camera, self.views, self.max_parts
        )

    def references(self, inputs: RGBDBatch, first: int) -> Tensor | None:
        """The inputs themselves."""
        return inputs.images


@dataclass
class GeneratedScenes:
    """What a diffusion model makes of classes, taken in turn.

    Those of a chunk are a function of the seed and of its first number.
    """

    diffusion: RGBDDiffusion
    name: str
    classes: Sequence[int | str]
    guidance: float | None
    steps: int | None
    seed: int
    count: int
    real: FileScenes | None = None
    """Pictures to compare with."""
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last: tuple[tuple[int, int], RGBDSamples] | None = None

    @property
    def title(self) -> str:
        """The model and how it was sampled."""
        config = self.diffusion.config
        guidance = config.guidance if self.guidance is None else self.guidance
        return (
            f"pictures with depth made by {self.name}, {len(self.classes)} classes in turn, "
            f"guidance {guidance:g}, {self.steps or config.sampling_steps} steps"
        )

    def __len__(self) -> int:
        return self.count

    def batch(self, first: int, count: int, model: TriGenConfig) -> RGBDBatch:
        """See ``SceneSource``."""
        images, depth = self._sampled(first, count)
        pairs = zip(images, depth, strict=True)
        return stacked([RGBD(image, d, 0, "") for image, d in pairs], model.size)

    def _sampled(self, first: int, count: int) -> RGBDSamples:
        """Samples; the last ones are kept for the next model."""
        if self.last is None or self.last[0] != (first, count):
            labels = [self.classes[i % len(self.classes)] for i in range(first, first + count)]
            generator = torch.Generator().manual_seed(SEED_STEP * self.seed + first)
            made = self.diffusion.sample(labels, 1, self.guidance, self.steps, generator)
            images, depth = (x.float().cpu().clamp(0.0, 1.0) for x in made)
            self.last = (first, count), RGBDSamples(images, depth)
        return self.last[1]

    def scene_set(self, count: int, model: TriGenConfig) -> SceneSet:
        """See ``SceneSource``."""
        parts = [self.batch(*chunk, model) for chunk in chunks(count)]
        batch = RGBDBatch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.depth for part in parts]),
            torch.cat([part.labels for part in parts]),
        )
        return SceneSet.without_truth(batch, model.camera)

    def references(self, inputs: RGBDBatch, first: int) -> Tensor | None:
        """Pictures of the data set that was named, until it ends."""
        if self.real is None or first >= len(self.real):
            return None
        found = self.real.batch(
            first, len(inputs.images), TriGenConfig(size=inputs.images.shape[-1])
        )
        return found.images


def chunks(count: int) -> list[tuple[int, int]]:
    """First numbers and sizes of what is made, read and rendered at a time."""
    return [(first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]


def _empty(size: int) -> RGBDBatch:
    return RGBDBatch(
        torch.zeros(0, 3, size, size),
        torch.zeros(0, 1, size, size),
        torch.zeros(0, dtype=torch.long),
    )
