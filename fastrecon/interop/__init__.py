"""Other projects' checkpoints (TripoSR, Real3D, OpenLRM) and drop-in renderers."""

from fastrecon.checkpoint import CheckpointError

__all__ = ["CheckpointError"]
