"""Where scenes to judge come from."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.testing import assert_close

from fastrecon.data.rgbd import RGBDError, open_rgbd
from fastrecon.evaluation.scenes.sources import (
    FileScenes,
    GeneratedScenes,
    ProceduralScenes,
    chunks,
)
from fastrecon.models.rgbd import RGBDSamples
from tests.evaluation.scenes.made_scenes import MICRO, SIZE, write_rgbd


class Diffusion:
    """As an ``RGBDDiffusion`` is called; a picture has its label's level, and noise."""

    config = SimpleNamespace(guidance=3.0, sampling_steps=50)

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def sample(self, labels: list[int], n: int, guidance: Any, steps: Any, generator: Any):
        self.calls.append(list(labels))
        assert n == 1
        levels = torch.tensor(labels)[:, None, None, None] / 10
        noise = 0.01 * torch.rand(len(labels), 4, 12, 12, generator=generator)
        return RGBDSamples(levels + noise[:, :3], noise[:, 3:])


def generated(**changes: Any) -> GeneratedScenes:
    made = GeneratedScenes(cast(Any, Diffusion()), "f", [3, 5], None, None, 0, 40)
    return replace(made, **changes)


def test_files_come_in_a_drawn_order_and_all_of_them(tmp_path) -> None:
    root = write_rgbd(tmp_path / "set", 5)
    source = FileScenes(str(root), seed=1)
    assert len(source) == 10
    assert "10 pictures in 2 classes" in source.title
    labels = source.batch(0, 10, MICRO).labels
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5
    assert labels.tolist() != sorted(labels.tolist())  # or IS would see one class at a time
    parts = [source.batch(first, 5, MICRO).images for first in (0, 5)]
    assert_close(torch.cat(parts), source.batch(0, 10, MICRO).images)
    scenes = source.scene_set(4, MICRO)
    assert scenes.novel is None
    assert_close(scenes.batch.images, parts[0][:4])
    assert source.references(scenes.batch, 0) is scenes.batch.images


def test_a_set_that_is_all_damaged_says_so(tmp_path) -> None:
    root = write_rgbd(tmp_path / "set", 1, classes=1)
    (root / "class0/0_depth.png").write_bytes(b"damaged")
    open_rgbd.cache_clear()
    source = FileScenes(str(root))
    assert not len(source.batch(0, 1, MICRO).images)
    with pytest.raises(RGBDError, match="no usable picture with depth; the first: "):
        source.scene_set(1, MICRO)


def test_procedural_batches_are_the_judged_scenes() -> None:
    source = ProceduralScenes(seed=2, views=1, max_parts=1)
    scenes = source.scene_set(3, MICRO)
    assert scenes.novel is not None
    assert scenes.novel.shape == (3, 1, 3, SIZE, SIZE)
    batch = source.batch(1, 2, MICRO)
    assert_close(batch.images, scenes.batch.images[1:], atol=1e-6, rtol=0)
    assert_close(batch.depth, scenes.batch.depth[1:], atol=1e-6, rtol=0)


def test_generated_scenes_are_a_function_of_the_seed() -> None:
    source = generated()
    first = source.batch(0, 4, MICRO)
    assert first.images.shape == (4, 3, SIZE, SIZE)
    levels = first.images.mean((1, 2, 3))
    assert_close(levels, torch.tensor([0.3, 0.5, 0.3, 0.5]), atol=0.02, rtol=0)
    again = generated().batch(0, 4, MICRO)
    assert_close(again.images, first.images)
    assert not torch.equal(generated(seed=1).batch(0, 4, MICRO).images, first.images)
    assert not torch.equal(source.batch(4, 4, MICRO).images, first.images)
    assert "guidance 3, 50 steps" in source.title


def test_models_share_what_was_generated() -> None:
    source = generated()
    for size in (SIZE, 2 * SIZE):
        assert source.batch(0, 4, replace(MICRO, size=size)).images.shape[-1] == size
    assert cast(Any, source.diffusion).calls == [[3, 5, 3, 5]]
    scenes = source.scene_set(20, MICRO)  # 16 and 4
    assert scenes.batch.images.shape[0] == 20
    assert chunks(20) == [(0, 16), (16, 4)]


def test_generated_scenes_are_compared_with_real_ones(tmp_path) -> None:
    batch = generated().batch(0, 4, MICRO)
    assert generated().references(batch, 0) is None
    real = FileScenes(str(write_rgbd(tmp_path / "set", 3)))
    source = generated(real=real)
    found = source.references(batch, 4)
    assert found is not None
    assert found.shape == (2, 3, SIZE, SIZE)
    assert source.references(batch, 8) is None
