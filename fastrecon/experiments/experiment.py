"""What an experiment is: arms that differ in their configuration, trained alike, judged alike."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from ..config import Config
from ..config.checks import config_to_json
from ..tasks.configs import AnyConfig

Scores = dict[str, dict[str, float | None]]
"""``scores[metric][object]``; None: the model has no such value (no surface)."""
Settings = dict[str, Any]
"""What an evaluation is a function of besides the model; plain JSON values."""
Evaluate = Callable[[Any, Any, Settings], Scores]
"""Judges a model in eval mode, given its configuration. A function of a module: it is called in
other processes."""
UNTRAINED = "untrained"
"""Folder of a run without training, which is the same for every seed."""


class ExperimentError(ValueError):
    """An experiment that cannot be run as asked; the message says what to do."""


class Arm(NamedTuple):
    """One variant. ``optim.steps`` 0 means no training: the weights of ``run.init`` are judged."""

    title: str
    change: Callable[[Any], Any]
    """From the configuration of all arms to this one's."""


@dataclass(frozen=True)
class Metric:
    """One figure per object."""

    name: str
    title: str
    digits: int = 2
    higher_is_better: bool = True


@dataclass(frozen=True)
class Prepared:
    """What is there before the first run starts."""

    config: AnyConfig
    """What all arms start from, with the paths of what was prepared."""
    settings: Settings
    conditions: dict[str, Any]
    """For the table: what the experiment was run on."""
    todo: str = ""
    """What a dry run left to do, in words."""


@dataclass(frozen=True)
class Experiment:
    """Arms x seeds of one configuration.

    Args:
        name: of the command and of the table's place in a page.
        title: a heading.
        question: what is asked, in a few sentences.
        arms: by their short names, which are also their folders; in the order of the table.
        references: short names of the arms that all others are compared with; the first is drawn.
        metrics: what ``evaluate`` returns.
        prepare: makes what the runs need under ``config.run.out``, once; called with True it
            writes nothing and says what it would do.
        evaluate: judges a trained model.
    """

    name: str
    title: str
    question: str
    arms: Mapping[str, Arm]
    references: tuple[str, ...]
    metrics: tuple[Metric, ...]
    prepare: Callable[[bool], Prepared]
    evaluate: Evaluate


@dataclass(frozen=True)
class ExperimentOptions:
    """What every experiment can be asked on the command line; a subclass is an experiment."""

    arms: tuple[str, ...] = ()
    """Short names of the arms to run and compare; all if none is named."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each arm is trained once for each; added to run.seed and data.seed."""
    jobs: int = 0
    """Runs at a time; 0: one on a GPU, on a CPU one for each core."""
    dry_run: bool = False
    """List the runs and what they would need; write nothing."""
    markdown: Path | None = None
    """Also write the table here, and the figure beside it; in a page that exists, between the
    lines that its error names."""
    config: Annotated[AnyConfig, tyro.conf.arg(name="")] = field(default_factory=Config)

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"--seeds must be different numbers from 0 on, got {' '.join(map(str, self.seeds))}"
            )
        if self.jobs < 0:
            raise ValueError(f"--jobs must not be negative, got {self.jobs}")
        if self.config.optim.steps < 1:
            raise ValueError(f"--optim.steps must be at least 1, got {self.config.optim.steps}")

    def experiment(self) -> Experiment:
        """The experiment that these options ask for."""
        raise TypeError(f"{type(self).__name__} must say what its experiment is")


@dataclass(frozen=True)
class Job:
    """One run of an arm: trained, then judged, all in its folder."""

    arm: str
    seed: int | None
    """None: not trained, the same for every seed."""
    config: AnyConfig
    settings: Settings
    evaluate: str
    """``module:function`` of the judge."""

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.config.run.out)

    @property
    def name(self) -> str:
        """For people."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "config_type": reference(type(self.config)),
            "config": config_to_json(self.config),
            "settings": json.loads(json.dumps(self.settings)),
            "evaluate": self.evaluate,
        }


def chosen_arms(experiment: Experiment, options: ExperimentOptions) -> list[str]:
    """The arms that are asked for, in the experiment's order.

    Raises:
        ExperimentError: there is no such arm.
    """
    unknown = [arm for arm in options.arms if arm not in experiment.arms]
    if unknown:
        raise ExperimentError(
            f"no arm is called {', '.join(unknown)}; there are {', '.join(experiment.arms)}"
        )
    return [arm for arm in experiment.arms if arm in options.arms or not options.arms]


def jobs_of(experiment: Experiment, prepared: Prepared, options: ExperimentOptions) -> list[Job]:
    """The runs of the chosen arms, the first seed of all arms first."""
    chosen = chosen_arms(experiment, options)
    changed = {arm: experiment.arms[arm].change(prepared.config) for arm in chosen}
    judge = reference(experiment.evaluate)
    untrained = [arm for arm in chosen if not changed[arm].optim.steps]
    pairs: list[tuple[str, int | None]] = [(arm, None) for arm in untrained]
    pairs += [(arm, seed) for seed in options.seeds for arm in chosen if arm not in untrained]
    return [
        Job(arm, seed, _placed(changed[arm], arm, seed), prepared.settings, judge)
        for arm, seed in pairs
    ]


def _placed(cfg: AnyConfig, arm: str, seed: int | None) -> AnyConfig:
    """The arm's configuration with its folder and, if it is trained, its seed."""
    folder = Path(cfg.run.out) / arm / (UNTRAINED if seed is None else f"seed{seed}")
    shift = seed or 0
    run = replace(cfg.run, out=str(folder), seed=cfg.run.seed + shift, resume=True)
    return replace(cfg, run=run, data=replace(cfg.data, seed=cfg.data.seed + shift))


def restored(template: Any, values: Mapping[str, Any]) -> Any:
    """A configuration from its JSON: ``template``'s fields, tuples where it has tuples."""
    filled = {}
    for name, value in values.items():
        like = getattr(template, name)
        if isinstance(value, Mapping):
            filled[name] = restored(like, value)
        else:
            filled[name] = tuple(value) if isinstance(like, tuple) else value
    return replace(template, **filled)


def reference(thing: Callable[..., Any]) -> str:
    """``module:name`` of a function or class at the top of a module."""
    return f"{thing.__module__}:{thing.__qualname__}"


def resolved(text: str) -> Callable[..., Any]:
    """Inverse of `reference`."""
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)
