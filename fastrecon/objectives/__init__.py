"""What a batch is trained towards: callables ``(model, batch, step) -> (loss, metrics)``.

The trainer knows nothing more about them; a new training idea is a new objective or a new term.
"""

from .joint import Joint
from .self_training import SelfTraining
from .supervised import Supervised

__all__ = ["Joint", "SelfTraining", "Supervised"]
