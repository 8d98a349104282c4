"""What a run is about: its model, its batches, its objective, and how it is judged.

The trainer knows nothing beyond the protocol ``Task``; a new kind of model is a new task.
"""

from .task import Model, Report, Task, task_for

__all__ = ["Model", "Report", "Task", "task_for"]
