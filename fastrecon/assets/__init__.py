"""Files that come with the package: a small trained model and a picture to try it on."""

from pathlib import Path

SHIPPED_MODEL = Path(__file__).parent / "small"
"""The checkpoint that serves where none is named; see its README.md."""
EXAMPLE = Path(__file__).parent / "example.png"
