"""The one training loop: batches, an objective, a model, and nothing of what is inside them.

A new training idea is a new term in ``objectives``, a new model a new recipe; this file stays.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .checkpoint import Checkpoint, CheckpointStore, write_atomic
from .config.checks import config_differences, config_to_json, resolve_device
from .distributed import Learner, world
from .optim import (
    WeightAverage,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from .prefetch import Prefetch
from .progress import Meter, NoLog, RunLog
from .signals import Interrupted, StopRequest
from .tasks import Model, Report, task_for
from .tasks.configs import AnyConfig
from .tasks.task import Batch

MAX_BAD_STEPS = 10
"""Steps in a row without a finite loss and gradient after which a run gives up."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and what to try."""


class Trainer:
    """Trains the model of ``task_for(cfg)`` towards its objective.

    Args:
        cfg: everything the run is a function of. With ``cfg.run.resume`` the newest whole
            checkpoint under ``cfg.run.out`` is taken up, exactly where it was left.

    Under ``torchrun`` every process has a trainer and takes its share of each batch; the first one
    alone validates and writes.

    Raises:
        ValueError: a configuration that cannot be trained, or one that differs from that of the
            checkpoints in ``cfg.run.out``.
    """

    def __init__(self, cfg: AnyConfig) -> None:
        self.cfg = cfg
        self.task = task_for(cfg)
        self.task.check()
        self.world = world()
        self.share = self.task.share(self.world.rank, self.world.size)
        """What of the task is this process's."""
        self.out = Path(cfg.run.out)
        self.device = self.world.device(resolve_device(cfg.run.device))
        self.world.join(self.device)
        torch.manual_seed(cfg.run.seed)
        self.model = self.task.build_model().to(self.device)
        self.optimizer = build_optimizer(self.model, cfg.optim)
        self.average = WeightAverage(self.model, cfg.optim.ema)
        learner = Learner(self.model, self.share.build_objective(self.device))
        self.learner = self.world.shared(learner, self.device)
        self.store = CheckpointStore(self.out / "checkpoints", cfg.run.keep)
        self.step = 0
        """Steps done."""
        self.best_score: float | None = None
        """Best held-out score so far."""
        self.bad_steps = 0
        """Steps just skipped in a row."""
        self._take_up()

    def run(self) -> Report | None:
        """Train to ``cfg.optim.steps``, validate, and export the averaged model to ``out/model``.

        Returns:
            How the averaged weights did; None in all processes but the first.

        Raises:
            Interrupted: SIGINT or SIGTERM arrived; the checkpoint is written.
            TrainingError: ``MAX_BAD_STEPS`` steps in a row were not finite.
        """
        run, steps = self.cfg.run, self.cfg.optim.steps
        log = RunLog(self.out, steps, self.step) if self.world.is_first else NoLog()
        # Worker processes leave the GPU to the model; without them objects are made where it is.
        device = "cpu" if run.data_workers else self.device
        batches = Prefetch(self.share.batches(device), steps, run.data_workers)
        meter = Meter()
        images = self.task.images_per_step
        try:
            with StopRequest() as stop:
                while self.step < steps:
                    with meter.waiting():
                        batch = batches.take(self.step).to(self.device)
                    metrics = self.train_step(batch)
                    if metrics is not None:
                        meter.add(metrics)
                    else:
                        log.message(f"step {self.step}: loss or gradient not finite, step skipped")
                    log.advance()
                    if self._due(run.log_every) and meter.steps:
                        values = meter.read(images)
                        log.scalars("train", self.step, values)
                    if self._due(run.validate_every) and self.step < steps:
                        self.validate(log)
                        meter.reset()
                    signum = self.world.largest(stop.signum or 0, self.device)
                    if self._due(run.checkpoint_every) or self.step == steps or signum:
                        self.save()
                    if signum and self.step < steps:
                        raise Interrupted(
                            signum,
                            f"stopped after step {self.step}; the checkpoint is in "
                            f"{self.store.folder}; run the same command again to continue",
                        )
            return self._finish(log)
        finally:
            batches.close()
            log.close()
            self.world.leave()

    def train_step(self, batch: Batch) -> dict[str, Tensor] | None:
        """One optimizer step; None, and nothing changed but the count, if it was not finite.

        The finiteness test is the only host sync of a step: metrics stay on the device.
        """
        cfg = self.cfg.optim
        lr = learning_rate(cfg, self.step)
        set_learning_rate(self.optimizer, lr)
        self.model.train()
        loss, metrics = self.learner(batch, self.step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.clip)
        # Of several processes, all see the same norm, but each its own loss.
        sound = norm if self.world.size > 1 else loss.detach() + norm
        finite = bool(torch.isfinite(sound))
        if finite:
            self.optimizer.step()
            self.average.update(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if self.bad_steps >= MAX_BAD_STEPS:
            raise TrainingError(
                f"loss or gradient was not finite for {self.bad_steps} steps in a row, up to step "
                f"{self.step} (loss {float(loss.detach())}, gradient norm {float(norm)}, learning "
                f"rate {lr:.2g}); {self._way_out()}"
            )
        if not finite:
            return None
        return {**metrics, "grad_norm": norm, "lr": loss.new_tensor(lr)}

    def validate(self, log: RunLog | NoLog) -> Report | None:
        """Judge the averaged weights on what is held out; log numbers and a picture.

        None in all processes but the first.
        """
        if not self.world.is_first:
            return None
        with self.average.applied():
            report = self.task.validate(self.model)
            if self.best_score is None or report.score > self.best_score:
                self.best_score = report.score
                if self.cfg.run.keep_best:
                    self._export("best")
        log.scalars("validation", self.step, report.scalars)
        if report.picture is not None:
            log.picture("held_out", self.step, report.picture)
        log.message(f"step {self.step}, held out:\n{report.table}")
        return report

    def save(self) -> Path | None:
        """Write a checkpoint of this moment; refuse one whose weights are not finite.

        Returns:
            Its folder; None in all processes but the first, which write nothing.
        """
        weights = [*self.model.parameters(), *self.average.tensors.values()]
        norm = torch.nn.utils.get_total_norm([w.detach() for w in weights])
        if not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"the weights are not finite after step {self.step}, so no checkpoint was written; "
                + self._way_out()
            )
        if not self.world.is_first:
            return None
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }
        if self.average.tensors:
            tensors["ema"] = self.average.tensors
        state = {
            "config": config_to_json(self.cfg),
            "best_score": self.best_score,
            "bad_steps": self.bad_steps,
            "rng": _rng_state(),
        }
        return self.store.write(Checkpoint(self.step, tensors, state))

    def _take_up(self) -> None:
        """Continue from the newest whole checkpoint, if there is one and it is of this run."""
        if not self.cfg.run.resume:
            if self.store.folders():
                raise ValueError(
                    f"{self.store.folder} holds checkpoints of an earlier run; give another "
                    "--run.out, delete that folder, or continue it with --run.resume"
                )
            return
        checkpoint = self.store.newest()
        if checkpoint is None:
            return
        state = checkpoint.state
        differences = config_differences(state["config"], config_to_json(self.cfg))
        if differences:
            raise ValueError(
                f"{self.store.folder} was written with another configuration:\n  "
                + "\n  ".join(differences)
                + "\ngive the same values to continue that run, or another --run.out for a new one"
            )
        self.model.load_state_dict(dict(checkpoint.tensors["model"]))
        load_optimizer_tensors(self.optimizer, self.model, checkpoint.tensors["optimizer"])
        self.average.load(checkpoint.tensors.get("ema", {}))
        self.step = checkpoint.step
        self.best_score, self.bad_steps = state["best_score"], state["bad_steps"]
        _set_rng_state(state["rng"])

    def _finish(self, log: RunLog | NoLog) -> Report | None:
        """Validate and export the averaged weights."""
        report = self.validate(log)
        if report is None:
            return None
        write_atomic(
            self.out / "validation.json",
            json.dumps({"step": self.step, **asdict(report.content)}, indent=1).encode(),
        )
        with self.average.applied():
            self._export("model")
        log.message(f"the model is in {self.out / 'model'}")
        return report

    def _export(self, name: str) -> None:
        """Write the model as it is now to a folder of the run."""
        cast(Model, self.model).save_pretrained(self.out / name)

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _way_out(self) -> str:
        """What a person can do about a run that diverged."""
        folders = self.store.folders()
        last = f"the last good checkpoint is {folders[0]}" if folders else "no checkpoint exists"
        return (
            f"{last}; a lower --optim.lr or --optim.clip, a longer --optim.warmup or "
            "--optim.precision fp32, in a new --run.out, are worth a try"
        )


def _rng_state() -> dict[str, list[str]]:
    """The state of torch's generators, as JSON."""
    states = {"cpu": [torch.get_rng_state()]}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return {
        kind: [base64.b64encode(s.numpy().tobytes()).decode() for s in group]
        for kind, group in states.items()
    }


def _set_rng_state(states: dict[str, list[str]]) -> None:
    """Inverse of ``_rng_state``; generators of devices that are not here are left out."""
    decoded = {
        kind: [torch.frombuffer(bytearray(base64.b64decode(s)), dtype=torch.uint8) for s in group]
        for kind, group in states.items()
    }
    torch.set_rng_state(decoded["cpu"][0])
    if "cuda" in decoded and len(decoded["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(decoded["cuda"])
