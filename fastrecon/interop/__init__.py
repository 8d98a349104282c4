"""Other projects' files and interfaces: checkpoints of TripoSR and Real3D, drop-in renderers."""

from fastrecon.checkpoint import CheckpointError

__all__ = ["CheckpointError"]
