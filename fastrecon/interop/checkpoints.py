"""Reading pretrained models: this package's own folders, TripoSR's, Real3D's and OpenLRM's.

A model is a configuration and a flat dictionary of named tensors. Pickles are other people's files
only, and are read with ``weights_only=True``: nothing in them runs. Whatever is wrong with a file
ends as one `CheckpointError` that says what to do about it.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastrecon.checkpoint import CheckpointError, load_tensors
from fastrecon.config import LRMConfig
from fastrecon.interop import openlrm
from fastrecon.interop.triposr import read_config

CONFIG_JSON = "config.json"
CONFIG_YAML = "config.yaml"
CONFIGS = (CONFIG_JSON, CONFIG_YAML)
WEIGHTS = "model.safetensors"
HUB_STEM = "pytorch_model"
"""The hub's other name of a model's weights, ``pytorch_model.bin``."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
FORMAT = "fastrecon-lrm"
VERSION = 1
SEQUENCES = ("near_far", "axes", "background", "rgb_range", "depth_kernel")
"""Fields that are, or may be, several values; all are of ``RenderSettings``."""
LISTED = 4
"""How many names an error lists before it only counts."""

T = TypeVar("T")


def real3d_config(base: LRMConfig | None = None) -> LRMConfig:
    """TripoSR's network at Real3D's camera for real pictures (distance 3, 0.691150367 rad)."""
    return replace(
        LRMConfig() if base is None else base,
        camera_distance=3.0,
        fov_deg=math.degrees(0.691150367),
        foreground_ratio=0.65,
    )


def read_pretrained(
    source: str | os.PathLike[str], *, revision: str | None = None
) -> tuple[LRMConfig, dict[str, Tensor]]:
    """The configuration and the tensors (in the file's dtype) of a folder, a file or a hub id.

    Raises:
        CheckpointError: nothing there, several candidates, or a file that cannot be read.
        ImportError: a hub id without huggingface_hub installed.
    """
    folder, named = locate(source, revision=revision)
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    config_name = choose_config(folder, names, named)
    content = read_json(folder / CONFIG_JSON) if config_name == CONFIG_JSON else None
    foreign = openlrm.describes_openlrm(content)
    if named in CONFIGS or named is None:
        own = config_name == CONFIG_JSON and not foreign
        named = WEIGHTS if own else choose_weights(names, str(folder))
    weights_name = named
    if foreign:
        config = openlrm.read_config(content, where=str(folder / CONFIG_JSON))
        return config, _from_openlrm(config, read_weights(folder / weights_name)[0])
    config = None
    if config_name == CONFIG_JSON:
        config = config_from_dict(content, where=str(folder / CONFIG_JSON))
    elif config_name == CONFIG_YAML:
        config = read_config(folder / CONFIG_YAML)
    tensors, wrapped = read_weights(folder / weights_name)
    if config_name != CONFIG_JSON and (wrapped or weights_name.startswith("model_both")):
        config = real3d_config(config)
    if config is None:
        raise CheckpointError(
            f"{folder} has {weights_name} but no {CONFIG_YAML} or {CONFIG_JSON} beside it; "
            "download the configuration into the same folder"
        )
    return config, tensors


def locate(
    source: str | os.PathLike[str], *, revision: str | None = None
) -> tuple[Path, str | None]:
    """The local folder of a folder, a file or a hub id, and the file that was named, if any.

    Raises:
        CheckpointError: neither there nor to be fetched.
        ImportError: a hub id without huggingface_hub installed.
    """
    path = Path(source)
    if not path.exists():
        hub_id = _as_hub_id(source)
        if hub_id is None:
            raise CheckpointError(
                f"{path} does not exist; give a folder with {CONFIG_JSON} or {CONFIG_YAML} and "
                "weights, a checkpoint file, or a hub id such as stabilityai/TripoSR"
            )
        path = _download(*hub_id, revision=revision)
    return (path, None) if path.is_dir() else (path.parent, path.name)


def _from_openlrm(config: LRMConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenLRM's tensors by this package's names; misfits are reported by OpenLRM's names."""
    from fastrecon.models.lrm import LRM

    state = LRM.skeleton(config, len(tensors)).state_dict()
    check_state_dict(tensors, openlrm.published_shapes(state))
    return openlrm.own_tensors(tensors, state)


def choose_config(folder: Path, names: Sequence[str], named: str | None) -> str | None:
    """The configuration to read among ``names``, the files of ``folder``; None: there is none.

    ``named`` is the file that the caller asked for, if any.
    """
    if named in CONFIGS:
        return named
    found = [n for n in CONFIGS if n in names]
    if len(found) < 2:
        return found[0] if found else None
    # Hubs like to find a config.json in a repository, whatever is in it.
    content = read_json(folder / CONFIG_JSON)
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        return CONFIG_YAML
    if named is not None and named.endswith(PICKLES):
        return CONFIG_YAML  # this package writes no pickles
    raise CheckpointError(
        f"{folder} holds two models, by {CONFIG_JSON} and by {CONFIG_YAML}; give each its own "
        "folder, or name the configuration file"
    )


def choose_weights(names: Iterable[str], where: str) -> str:
    """The weights among file names: safetensors before a pickle of the same name.

    Raises:
        CheckpointError: none, or several of which only the caller can know the right one.
    """
    names = sorted(names)
    weights = [n for n in names if n.endswith((".safetensors", *PICKLES))]
    if not weights:
        raise CheckpointError(
            f"{where} holds no weights ({WEIGHTS} or model.ckpt); found: "
            f"{', '.join(names[:8]) or 'nothing'}"
        )
    if len({PurePosixPath(n).stem.replace(HUB_STEM, "model") for n in weights}) > 1:
        raise CheckpointError(
            f"{where} holds several checkpoints: {', '.join(weights)}; name one of them, for "
            f"example {where}/{weights[0]}"
        )
    return min(weights, key=lambda n: (not n.endswith(".safetensors"), n))


def read_weights(
    path: Path, *, under: str = "state_dict", inert: Sequence[str] = ()
) -> tuple[dict[str, Tensor], bool]:
    """Named tensors of a checkpoint file, and whether they lay under the key ``under``.

    A leading ``module.`` (a model saved through DistributedDataParallel) is taken off. Names in
    ``inert`` ("module.name") of what a pickle refers to, beside its tensors, read as nothing.
    """
    if path.suffix == ".safetensors":
        content: Any = load_tensors(path)
    else:
        content = _read_pickle(path, inert)
    wrapped = isinstance(content, Mapping) and isinstance(content.get(under), Mapping)
    tensors = content[under] if wrapped else content
    if not isinstance(tensors, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()
    ):
        raise CheckpointError(
            f"{path} is not a model: expected a dictionary of named tensors or one under "
            f"{under!r}, got {_describe(content)}"
        )
    stripped = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(stripped) != len(tensors):
        raise CheckpointError(f"{path} holds names both with and without a leading 'module.'")
    return stripped, wrapped


def _nothing(*arguments: Any) -> None:
    """Stands for what a pickle refers to and this package has no use for."""


def _read_pickle(path: Path, inert: Sequence[str] = ()) -> Any:
    """``torch.load`` that runs nothing from the file, mapped into memory where it can be."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; check the path, or fetch the file again")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull`")
    try:
        with torch.serialization.safe_globals([(_nothing, name) for name in inert]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    # A damaged pickle can fail in any way there is: no list of exceptions would be complete.
    except Exception as error:
        detail = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({path.stat().st_size} bytes; {detail}); if it "
            "is truncated download it again; if it holds anything but tensors it is not loaded, "
            "because reading such a file can run code"
        ) from error


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return (
            f"a dictionary with {', '.join(repr(k) for k in list(content)[:LISTED]) or 'nothing'}"
        )
    return type(content).__name__


def check_state_dict(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` unless names, shapes and floating dtype all fit."""
    missing = [n for n in expected if n not in tensors]
    unexpected = [n for n in tensors if n not in expected]
    shared = [n for n in expected if n in tensors]
    shapes = [
        f"{n} is {tuple(tensors[n].shape)}, not {tuple(expected[n].shape)}"
        for n in shared
        if tensors[n].shape != expected[n].shape
    ]
    dtypes = [f"{n} is {tensors[n].dtype}" for n in shared if not tensors[n].is_floating_point()]
    faults = []
    for title, found in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", shapes),
        ("not floating point", dtypes),
    ):
        if found:
            more = f", and {len(found) - LISTED} more" if len(found) > LISTED else ""
            faults.append(f"{len(found)} {title}: {', '.join(found[:LISTED])}{more}")
    if faults:
        raise CheckpointError(
            "the weights do not fit the configuration; "
            + "; ".join(faults)
            + ". Check that the configuration belongs to this checkpoint"
        )


def config_to_dict(config: Any, kind: str = FORMAT) -> dict[str, Any]:
    """What ``config.json`` holds of a model's dataclass; `read_config_dict` reads it back."""
    return {"format": kind, "version": VERSION, "model": asdict(config)}


def config_from_dict(content: Any, *, where: str = CONFIG_JSON) -> LRMConfig:
    """An ``LRMConfig`` from ``config.json``; see `read_config_dict`."""
    return read_config_dict(content, LRMConfig(), FORMAT, where=where)


def read_config_dict(content: Any, template: T, kind: str, *, where: str = CONFIG_JSON) -> T:
    """A model's configuration from ``config.json``: unknown fields and wrong types are refused.

    Args:
        content: of the file.
        template: the configuration with every default. A field that is absent keeps it, so that
            files from before it existed still load.
        kind: what the file must give as its format.
        where: the file, for errors.
    """
    if not isinstance(content, Mapping) or content.get("format") != kind:
        raise CheckpointError(
            f'{where} does not say "format": "{kind}", so it belongs to another program or another '
            "kind of model; give a folder that save_pretrained of the same class wrote, or name "
            "the weights file"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{where} has version {content.get('version')!r}, this fastrecon reads {VERSION}; "
            "install the fastrecon that wrote it"
        )
    try:
        return _fill(template, content.get("model"), "model")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _fill(template: T, values: Any, path: str) -> T:
    """``template`` with the fields in ``values`` replaced; types follow the template's values."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must be an object, got {values!r}")
    assert is_dataclass(template)
    known = {f.name: getattr(template, f.name) for f in fields(template)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{path} has unknown fields {', '.join(map(repr, unknown[:LISTED]))}")
    filled = {}
    for name, value in values.items():
        default, where = known[name], f"{path}.{name}"
        if is_dataclass(default):
            filled[name] = _fill(default, value, where)
        elif isinstance(value, (list, tuple)) and name in SEQUENCES:
            filled[name] = tuple(value)  # a list in JSON; RenderSettings checks what is inside
        elif isinstance(default, tuple):
            filled[name] = _fill_tuple(default, value, where)
        elif isinstance(default, bool) or isinstance(value, bool):
            if type(default) is not type(value):
                raise ValueError(f"{where} must be {type(default).__name__}, got {value!r}")
            filled[name] = value
        elif isinstance(default, float) and isinstance(value, int):
            filled[name] = float(value)
        elif type(value) is type(default):
            filled[name] = value
        else:
            raise ValueError(f"{where} must be {type(default).__name__}, got {value!r}")
    return replace(template, **filled)  # type: ignore[type-var]


def _fill_tuple(default: tuple[Any, ...], values: Any, where: str) -> tuple[Any, ...]:
    """A tuple of any length from a JSON list; its elements have the type of the default's."""
    kind = type(default[0])
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(values, (list, tuple)) or not all(type(v) in accepted for v in values):
        raise ValueError(f"{where} must be a list of {kind.__name__}, got {values!r}")
    return tuple(kind(v) for v in values)


def read_json(path: Path) -> Any:
    """What a JSON file holds, or a `CheckpointError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON ({error}); fetch it again, or write it anew with "
            "save_pretrained"
        ) from error


def _as_hub_id(source: str | os.PathLike[str]) -> tuple[str, str | None] | None:
    """``owner/name`` or ``owner/name/file`` as a repository and a file; None: it is a path."""
    if not isinstance(source, str) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*){1,2}", source):
        return None
    owner, name, *file = source.split("/")
    if name.endswith((".safetensors", ".json", ".yaml", *PICKLES)):
        return None  # a file in a local folder, misspelt
    return f"{owner}/{name}", file[0] if file else None


def _download(repository: str, file: str | None, *, revision: str | None) -> Path:
    """Fetch configuration and weights of a hub repository; the local folder or file."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{repository} is not a local path, and fetching it from the hub needs "
            'huggingface_hub; pip install "fastrecon[hub]"'
        ) from error
    try:
        names = HfApi().list_repo_files(repository, revision=revision)
        weights = file or choose_weights([n for n in names if "/" not in n], repository)
        wanted = [weights, *CONFIGS]
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=wanted), weights
        )
    except CheckpointError:
        raise
    # The hub's client raises errors of several libraries; all mean that nothing was fetched.
    except Exception as error:
        failure = error
    try:  # offline, or refused: an earlier download serves as well
        folder = snapshot_download(repository, revision=revision, local_files_only=True)
    except Exception:
        raise CheckpointError(
            f"{repository} is not a local path and could not be fetched from the hub "
            f"({type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}); "
            "check the name and the network, or download the files by hand and give their folder"
        ) from failure
    return Path(folder, file) if file else Path(folder)
