"""The smallest model of scenes, and a set of pictures with depth on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fastrecon_kernels import RenderSettings
from PIL import Image

from fastrecon.config.g3dr import TriGenConfig
from fastrecon.models.trigen import TriGen

SIZE = 8
MICRO = replace(
    TriGenConfig.tiny(),
    size=SIZE,
    width=8,
    learned=2,
    heads=1,
    channels=4,
    hidden=8,
    render=RenderSettings.g3dr(n_samples=6, n_importance=6),
)


def micro_trigen(seed: int = 0) -> TriGen:
    """Random, but of several colours and densities."""
    torch.manual_seed(seed)
    model = TriGen(MICRO)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def write_rgbd(root: Path, count: int, classes: int = 2, seed: int = 0) -> Path:
    """``count`` pictures with depth in each class folder."""
    rng = np.random.default_rng(seed)
    for k in range(classes):
        folder = root / f"class{k}"
        folder.mkdir(parents=True)
        for i in range(count):
            rgb = rng.integers(256, size=(12, 10, 3), dtype=np.uint8)
            depth = rng.integers(65536, size=(12, 10)).astype(np.uint16)
            Image.fromarray(rgb).save(folder / f"{i}.png")
            Image.fromarray(depth).save(folder / f"{i}_depth.png")
    return root
