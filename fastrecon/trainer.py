"""The one training loop: batches, an objective, a model, and nothing of what is inside them.

A new training idea is a new term in ``objectives``, a new model a new recipe; this file stays.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Checkpoint, CheckpointStore, write_atomic
from .config import Config
from .config_checks import (
    check_config,
    config_differences,
    config_to_json,
    resolve_device,
)
from .data.stream import Batch, procedural_batch
from .evaluation.validation import HeldOut, Validation
from .models.lrm import LRM
from .objectives import Supervised
from .optim import (
    WeightAverage,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from .prefetch import Prefetch
from .progress import Meter, RunLog, picture_grid
from .signals import Interrupted, StopRequest

MAX_BAD_STEPS = 10
"""Steps in a row without a finite loss and gradient after which a run gives up."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and what to try."""


class Trainer:
    """Trains ``LRM(cfg.model)`` towards ``Supervised(cfg)`` on the procedural stream.

    Args:
        cfg: everything the run is a function of. With ``cfg.run.resume`` the newest whole
            checkpoint under ``cfg.run.out`` is taken up, exactly where it was left.

    Raises:
        ValueError: a configuration that cannot be trained, or one that differs from that of the
            checkpoints in ``cfg.run.out``.
    """

    def __init__(self, cfg: Config) -> None:
        check_config(cfg)
        self.cfg = cfg
        self.out = Path(cfg.run.out)
        self.device = resolve_device(cfg.run.device)
        torch.manual_seed(cfg.run.seed)
        self.model = build_model(cfg).to(self.device)
        self.optimizer = build_optimizer(self.model, cfg.optim)
        self.average = WeightAverage(self.model, cfg.optim.ema)
        self.objective = Supervised(cfg)
        self.store = CheckpointStore(self.out / "checkpoints", cfg.run.keep)
        self.step = 0
        """Steps done."""
        self.best_psnr: float | None = None
        """Best held-out PSNR so far, dB."""
        self.bad_steps = 0
        """Steps just skipped in a row."""
        self.held_out: HeldOut | None = None
        self._take_up()

    def run(self) -> Validation:
        """Train to ``cfg.optim.steps``, validate, and export the averaged model to ``out/model``.

        Raises:
            Interrupted: SIGINT or SIGTERM arrived; the checkpoint is written.
            TrainingError: ``MAX_BAD_STEPS`` steps in a row were not finite.
        """
        run, steps = self.cfg.run, self.cfg.optim.steps
        log = RunLog(self.out, steps, self.step)
        # Worker processes leave the GPU to the model; without them objects are made where it is.
        device = "cpu" if run.data_workers else self.device
        make = partial(procedural_batch, self.cfg, device=device)
        batches = Prefetch(make, steps, run.data_workers)
        meter = Meter()
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
                        values = meter.read(self.cfg.optim.batch_size)
                        log.scalars("train", self.step, values)
                    if self._due(run.validate_every) and self.step < steps:
                        self.validate(log)
                        meter.reset()
                    if self._due(run.checkpoint_every) or self.step == steps or stop.signum:
                        self.save()
                    if stop.signum and self.step < steps:
                        raise Interrupted(
                            stop.signum,
                            f"stopped after step {self.step}; the checkpoint is in "
                            f"{self.store.folder}; run the same command again to continue",
                        )
            return self._finish(log)
        finally:
            batches.close()
            log.close()

    def train_step(self, batch: Batch) -> dict[str, Tensor] | None:
        """One optimizer step; None, and nothing changed but the count, if it was not finite.

        The finiteness test is the only host sync of a step: metrics stay on the device.
        """
        cfg = self.cfg.optim
        lr = learning_rate(cfg, self.step)
        set_learning_rate(self.optimizer, lr)
        self.model.train()
        loss, metrics = self.objective(self.model, batch, self.step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.clip)
        finite = bool(torch.isfinite(loss.detach() + norm))
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

    def validate(self, log: RunLog) -> Validation:
        """Score held-out views with the averaged weights; log numbers and a picture grid."""
        if self.held_out is None:
            self.held_out = HeldOut.make(self.cfg)
        with self.average.applied():
            rendered = self.held_out.render(self.model, bf16=self.cfg.optim.precision == "bf16")
        result = self.held_out.score(rendered)
        self.best_psnr = max(result.all.psnr, self.best_psnr or result.all.psnr)
        log.scalars("validation", self.step, result.scalars())
        held = self.held_out
        log.picture("held_out", self.step, picture_grid(held.images, held.pictures, rendered))
        log.message(f"step {self.step}, held out:\n{result.table()}")
        return result

    def save(self) -> Path:
        """Write a checkpoint of this moment; refuse one whose weights are not finite."""
        weights = [*self.model.parameters(), *self.average.tensors.values()]
        norm = torch.nn.utils.get_total_norm([w.detach() for w in weights])
        if not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"the weights are not finite after step {self.step}, so no checkpoint was written; "
                + self._way_out()
            )
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }
        if self.average.tensors:
            tensors["ema"] = self.average.tensors
        state = {
            "config": config_to_json(self.cfg),
            "best_psnr": self.best_psnr,
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
        self.best_psnr, self.bad_steps = state["best_psnr"], state["bad_steps"]
        _set_rng_state(state["rng"])

    def _finish(self, log: RunLog) -> Validation:
        """Validate and export the averaged weights."""
        result = self.validate(log)
        write_atomic(
            self.out / "validation.json",
            json.dumps({"step": self.step, **asdict(result)}, indent=1).encode(),
        )
        with self.average.applied():
            self.model.save_pretrained(self.out / "model")
        log.message(f"the model is in {self.out / 'model'}")
        return result

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


def build_model(cfg: Config) -> LRM:
    """``LRM(cfg.model)``, random or with the weights of ``cfg.run.init``, which must fit it.

    Raises:
        CheckpointError: no such weights, or weights of another architecture.
    """
    if not cfg.run.init:
        return LRM(cfg.model)
    return LRM.from_tensors(cfg.model, LRM.from_pretrained(cfg.run.init).state_dict())


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
