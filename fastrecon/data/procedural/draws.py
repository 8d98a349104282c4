"""Random numbers that depend on nothing but (seed, index)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TURN = 2.0 * np.pi


def uniforms(seed: int, index: int, n: int) -> Array:
    """``n`` numbers uniform on [0, 1), a function of (seed, index): Philox with that key."""
    if not 0 <= seed < 2**64 or not 0 <= index < 2**64:
        raise ValueError(
            f"seed and index must be whole numbers in [0, 2**64), got {seed} and {index}"
        )
    key = np.array([seed, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n)


class Draws:
    """Hands out the columns of a table (B, ..., n) of uniform numbers, each once."""

    def __init__(self, table: Array) -> None:
        self.table = table
        self.used = 0

    def take(self, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        """(..., n) numbers uniform on [low, high)."""
        if self.used + n > self.table.shape[-1]:
            raise ValueError(f"only {self.table.shape[-1]} numbers were drawn; draw more")
        u = self.table[..., self.used : self.used + n]
        self.used += n
        return low + (high - low) * u

    def one(self, low: float = 0.0, high: float = 1.0) -> Array:
        """(...) numbers uniform on [low, high)."""
        return self.take(1, low, high)[..., 0]

    def choice(self, shares: tuple[float, ...]) -> NDArray[np.int64]:
        """(...) whole numbers i with probabilities ``shares[i]``, which add up to 1."""
        return np.searchsorted(np.cumsum(shares)[:-1], self.one(), side="right")

    def unit_vectors(self) -> Array:
        """(..., 3) uniform on the sphere."""
        z, angle = self.one(-1.0, 1.0), self.one(0.0, TURN)
        ring = np.sqrt(1.0 - z * z)
        return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)

    def rotations(self) -> Array:
        """(..., 3, 3) uniform rotations (Shoemake, Graphics Gems III, 1992)."""
        u = self.take(3)
        a, b = np.sqrt(1 - u[..., 0]), np.sqrt(u[..., 0])
        angles = TURN * u[..., 1:]
        w, x = a * np.sin(angles[..., 0]), a * np.cos(angles[..., 0])
        y, z = b * np.sin(angles[..., 1]), b * np.cos(angles[..., 1])
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
