"""Frames as an MP4 file, for which imageio brings its own ffmpeg."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .pictures import Picture


def mp4_bytes(frames: Sequence[Picture], seconds: float = 2.4) -> bytes:
    """Frames as an H.264 video that takes ``seconds``; odd sides lose their last row or column.

    Raises:
        ImportError: imageio or its ffmpeg is not installed; the message names the extra.
    """
    if not len(frames):
        raise ValueError("a video needs at least one frame, got none")
    try:
        import imageio
        import imageio_ffmpeg  # noqa: F401  # imageio finds it by itself, and complains late
    except ImportError as error:
        raise ImportError(
            f'MP4 needs imageio and its ffmpeg: pip install "fastrecon[video]"; or take GIF '
            f"({error})"
        ) from error
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with imageio.get_writer(
            path, fps=max(1.0, len(frames) / seconds), codec="libx264", macro_block_size=2
        ) as writer:
            for frame in frames:
                writer.append_data(np.ascontiguousarray(frame[:height, :width]))  # type: ignore[attr-defined]
        return path.read_bytes()
