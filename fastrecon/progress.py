"""What a person sees of a run: a bar, ``metrics.jsonl``, pictures, and tensorboard if installed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .checkpoint import write_atomic

SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "psnr": ("psnr", "{:.2f}"),
    "images_per_second": ("img/s", "{:.1f}"),
    "data_wait": ("wait", "{:.0%}"),
}
"""Training scalars that a person sees while they change, their labels and formats."""


class Meter:
    """Means of scalar tensors over a window of steps, kept on their device until read."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new window."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count one step; nothing is copied to the host. Steps may have different metrics."""
        self.steps += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside counts as waiting for data."""
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun

    def read(self, batch_size: int) -> dict[str, float]:
        """The window's means, images per second and share of time spent waiting; then reset.

        Time is read after the values, whose arrival means that the device has done the work.
        """
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        means["images_per_second"] = self.steps * batch_size / elapsed
        means["data_wait"] = self.waited / elapsed
        self.reset()
        return means


class RunLog:
    """Everything that a run reports, under ``out``.

    Args:
        out: the run's folder; ``metrics.jsonl``, ``pictures/`` and ``tensorboard/`` lie in it.
        total: steps of the whole run.
        step: steps done already; later records of an earlier attempt are dropped.
    """

    def __init__(self, out: Path, total: int, step: int = 0) -> None:
        self.pictures = out / "pictures"
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.metrics = out / "metrics.jsonl"
        _drop_after(self.metrics, step)
        self.bar = tqdm(
            total=total,
            initial=step,
            desc=str(out),
            unit="step",
            dynamic_ncols=True,
            disable=None,  # that is: where there is no terminal
        )
        self.writer = _tensorboard(out / "tensorboard", step)

    def advance(self) -> None:
        """One more step is done."""
        self.bar.update()

    def scalars(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record of kind "train" or "validation" to every log."""
        record = {"kind": kind, "step": step, **values}
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        if self.writer is not None:
            for name, value in numbers.items():
                self.writer.add_scalar(f"{kind}/{name}", value, step)
        if kind == "train":
            shown = {
                label: form.format(numbers[name])
                for name, (label, form) in SHOWN.items()
                if name in numbers
            }
            self.bar.set_postfix(shown)
            if self.bar.disable:  # no terminal: a line that a log file can hold
                print(f"step {step}/{self.bar.total}", *(f"{k} {v}" for k, v in shown.items()))

    def picture(self, name: str, step: int, picture: Tensor) -> Path:
        """Save a picture ``(3, H, W)`` in [0, 1] as a PNG and show it in tensorboard."""
        path = self.pictures / f"{name}_{step:08d}.png"
        pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
        if self.writer is not None:
            self.writer.add_image(name, pixels, step, dataformats="HWC")
        return path

    def message(self, text: str) -> None:
        """Print without tearing the bar."""
        self.bar.write(text)

    def close(self) -> None:
        """Flush everything."""
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


class NoLog:
    """A ``RunLog`` that reports nothing: that of all processes of a run but the first."""

    def advance(self) -> None:
        """Nothing."""

    def scalars(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def picture(self, name: str, step: int, picture: Tensor) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def picture_grid(
    images: Tensor, truth: Tensor, rendered: Tensor, objects: int = 6, views: int = 3
) -> Tensor:
    """One row per object: input | truth | rendering | truth | rendering | ...

    Args:
        images: ``(n, 3, h, w)`` inputs, resized to the pictures' size.
        truth, rendered: ``(n, V, 3, H, W)``.
        objects, views: at most so many rows, and pairs per row, spread over the V views.

    Returns:
        ``(3, rows H, (1 + 2 pairs) W)`` on the CPU.
    """
    size = truth.shape[-2:]
    inputs = torch.nn.functional.interpolate(
        images[:objects].float().cpu(), size, mode="bilinear", antialias=True, align_corners=False
    )
    shown = torch.linspace(0, truth.shape[1] - 1, min(views, truth.shape[1])).round().long()
    pairs = torch.stack([truth[:objects, shown], rendered[:objects, shown]], dim=2)
    pairs = pairs.float().cpu().flatten(1, 2)  # (n, 2 V, 3, H, W), alternating
    rows = torch.cat([inputs[:, None], pairs], dim=1)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _drop_after(path: Path, step: int) -> None:
    """Keep the records up to ``step``, without a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_atomic(path, "".join(kept).encode())


def _tensorboard(folder: Path, step: int):
    """A summary writer, or None with one line of notice where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        tqdm.write('no tensorboard (pip install "fastrecon[train]"); metrics.jsonl has the numbers')
        return None
    return SummaryWriter(str(folder), purge_step=step)
