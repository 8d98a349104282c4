"""What a batch is trained towards: callables ``(model, batch, step) -> (loss, metrics)``.

The trainer knows nothing more about them; a new training idea is a new objective or a new term.
"""

from .supervised import Supervised

__all__ = ["Supervised"]
