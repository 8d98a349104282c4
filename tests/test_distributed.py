"""Several processes train one model: their gradients are averaged and their weights stay equal."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastrecon.checkpoint import CheckpointStore
from fastrecon.config import Config, DataConfig, OptimConfig, RunConfig
from fastrecon.distributed import World, world
from fastrecon.tasks import task_for
from fastrecon.tasks.reconstruction import Reconstruction
from tests.micro import micro_config

CHILD = """
import pickle, sys
from pathlib import Path
import torch
from fastrecon.evaluation import validation
from fastrecon.trainer import Trainer

validation.mean_image = lambda cfg, size: torch.zeros(3, size, size)  # of 256 objects otherwise
out = Path(sys.argv[1])
trainer = Trainer(pickle.loads((out / "config.pickle").read_bytes()))
trainer.run()
torch.save(dict(trainer.model.state_dict()), out / f"rank{trainer.world.rank}.pt")
"""


def config(out: Path | str, **optim: float) -> Config:
    cfg = Config(
        model=micro_config(),
        data=DataConfig(views=2, rays_per_view=8, max_parts=2, jitter=False),
        optim=replace(OptimConfig(steps=2, batch_size=4, warmup=1, precision="fp32"), **optim),
        run=RunConfig(
            out=str(out), device="cpu", validation_objects=2, validation_views=1, validation_size=8
        ),
    )
    return cfg


def test_the_environment_tells_the_world(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert world() == World(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="torchrun"):
        world()
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    found = world()
    assert (found.rank, found.size, found.is_first) == (5, 8, False)
    assert found.device(torch.device("cuda")) == torch.device("cuda", 1)
    assert found.device(torch.device("cuda", 3)) == torch.device("cuda", 3)


def test_shares_are_the_whole_batch(tmp_path: Path):
    """Two processes see at each step what one would see: other views of the same objects."""
    task = Reconstruction(config(tmp_path))
    whole = task.batches("cpu")(3)
    parts = [task.share(rank, 2).batches("cpu")(3) for rank in range(2)]
    assert [len(part.known.images) for part in parts] == [2, 2]
    for k, part in enumerate(parts):
        # The placement's jitter is another one; the objects' colours tell them apart.
        for image, expected in zip(part.known.images, whole.known.images[2 * k :], strict=False):
            errors = (whole.known.images - image).square().mean((1, 2, 3))
            assert torch.equal(whole.known.images[errors.argmin()], expected)
    seeds = {task.share(rank, 2).cfg.run.seed for rank in range(2)}
    assert len(seeds) == 2
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        task.share(0, 3)


def test_two_processes_keep_one_model(tmp_path: Path):
    """Weights agree bitwise, are those of averaged gradients, and one process alone writes."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config(tmp_path)))
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "kernels")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    port = ["--master-port", str(29500 + os.getpid() % 2000)]
    done = subprocess.run(
        [*run, *port, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{k}.pt") for k in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert done.stdout.count("held out") == 1  # the last validation, by the first process
    checkpoint = CheckpointStore(tmp_path / "checkpoints").newest()
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert all(torch.equal(checkpoint.tensors["model"][name], first[name]) for name in first)

    expected = by_hand(config(tmp_path / "one"))
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)


def by_hand(cfg: Config) -> dict[str, torch.Tensor]:
    """The same two steps in one process: the mean of both shares' gradients."""
    from fastrecon.optim import build_optimizer, learning_rate, set_learning_rate

    torch.manual_seed(cfg.run.seed)
    task = task_for(cfg)
    model = task.build_model().train()
    optimizer = build_optimizer(model, cfg.optim)
    shares = [task.share(rank, 2) for rank in range(2)]
    for step in range(cfg.optim.steps):
        set_learning_rate(optimizer, learning_rate(cfg.optim, step))
        for share in shares:
            batch = share.batches("cpu")(step)
            loss, _ = share.build_objective(torch.device("cpu"))(model, batch, step)
            (0.5 * loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.clip)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()
