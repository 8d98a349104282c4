"""Several processes, one model, as ``torchrun`` starts them: PyTorch's DistributedDataParallel.

    torchrun --nproc-per-node 8 train.py base --run.out runs/base

Every process takes its share of a batch; gradients are averaged while they are computed. The first
process alone validates, logs and writes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=2)
"""How long the others wait for the first process, which validates alone."""


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on this machine; the number of its GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def device(self, wanted: torch.device) -> torch.device:
        """A GPU of its own for each process on a machine."""
        if self.size > 1 and wanted.type == "cuda" and wanted.index is None:
            return torch.device("cuda", self.local_rank)
        return wanted

    def join(self, device: torch.device) -> None:
        """Meet the other processes; nothing to do for one."""
        if self.size > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)

    def leave(self) -> None:
        """The end of ``join``."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def shared(self, learner: nn.Module, device: torch.device) -> nn.Module:
        """The learner, its gradients averaged over all processes."""
        if self.size == 1:
            return learner
        # Released checkpoints hold parameters that nothing reads (the ViT's pooler).
        return DistributedDataParallel(
            learner,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=True,
        )

    def largest(self, value: int, device: torch.device) -> int:
        """The largest of all processes' values; waits for them."""
        if self.size == 1:
            return value
        found = torch.tensor(value, device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)


def world() -> World:
    """The world that ``torchrun`` describes in the environment; one process without it.

    Raises:
        ValueError: the environment contradicts itself.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(name) for name in names]
    if values[1] is None:
        return World()
    try:
        rank, size, local_rank = (int(value or "") for value in values)
    except ValueError as error:
        raise ValueError(
            f"{', '.join(names)} must all be numbers, got {values}; start with torchrun"
        ) from error
    return World(rank, size, local_rank)


class Learner(nn.Module):
    """A model and its objective as one module, whose backward pass several processes share."""

    def __init__(self, model: nn.Module, objective: Any) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """``objective(model, batch, step)``."""
        return self.objective(self.model, batch, step)
