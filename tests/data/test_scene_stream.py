"""Procedural scenes as batches: without end, or a number of them again and again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastrecon.config.g3dr import G3DRConfig
from fastrecon.data import scene_stream
from fastrecon.recipes.g3dr import g3dr_tiny


def config(scenes: int) -> G3DRConfig:
    start = g3dr_tiny()
    return replace(
        start,
        model=replace(start.model, size=16),
        data=replace(start.data, scenes=scenes, flip=0.0),
        optim=replace(start.optim, batch_size=2),
    )


def test_scenes_that_are_kept_are_those_without_end() -> None:
    kept, fresh = (scene_stream.scene_batch(config(n), 1) for n in (4, 0))
    torch.testing.assert_close(kept.images, fresh.images)
    torch.testing.assert_close(kept.depth, fresh.depth)


def test_scenes_come_again_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = scene_stream.rgbd_scenes

    def counting(seed, indices, *rest, **options):
        made.extend(indices)
        return make(seed, indices, *rest, **options)

    monkeypatch.setattr(scene_stream, "rgbd_scenes", counting)
    scene_stream._scene.cache_clear()
    batches = [scene_stream.scene_batch(config(3), step) for step in range(4)]
    assert sorted(made) == [0, 1, 2]
    assert torch.equal(batches[0].images, batches[3].images)  # scenes 0, 1 and 6 % 3, 7 % 3
    assert torch.equal(batches[0].images[0], batches[1].images[1])
    assert not torch.equal(batches[0].images[0], batches[0].images[1])
