"""Checkpoints of f_trigen: this package's own folders, and those of G3DR's public code.

The public code writes ``checkpoint_generic.pt``: a pickle with the network under ``model`` (as
DistributedDataParallel names it), beside the optimiser and its schedule. It holds no configuration;
every size is read from the shapes. What it leaves open is as the public code has it: attention has
four heads, planes have EG3D's axes, the camera is `SceneCameraConfig`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fastrecon.checkpoint import CheckpointError
from fastrecon.config.g3dr import TriGenConfig

from .checkpoints import (
    CONFIG_JSON,
    PICKLES,
    WEIGHTS,
    check_state_dict,
    choose_weights,
    locate,
    read_config_dict,
    read_json,
    read_weights,
)

FORMAT = "fastrecon-trigen"
UNDER = "model"
"""Key of the network in a public checkpoint."""
INERT = ("builtins.getattr", "torch.optim.lr_scheduler.OneCycleLR")
"""What the state of the schedule refers to when an older PyTorch wrote it: its cosine."""
HEADS = 4
PUBLISHED = (  # pattern of this package's names, what the public code has instead; in this order
    (r"^unet\.learned$", "pos_embed"),
    (r"^unet\.conv_in\.", "init_conv."),
    (r"^unet\.conv_out\.", "final_conv."),
    (r"^unet\.final_block\.", "final_res_block."),
    (r"^unet\.time_mlp\.0\.", "time_mlp.1."),
    (r"^unet\.time_mlp\.2\.", "time_mlp.3."),
    (r"^unet\.mid_attention\.", "mid_attn.fn."),
    (r"^unet\.", ""),
    (r"^((?:downs|ups)\.\d+)\.block1\.", r"\1.0."),
    (r"^((?:downs|ups)\.\d+)\.block2\.", r"\1.1."),
    (r"^((?:downs|ups)\.\d+)\.attention\.", r"\1.2.fn."),
    (r"^((?:downs|ups)\.\d+)\.resize\.", r"\1.3."),
    (r"\.film\.", ".mlp.1."),
    (r"\.conv(\d)\.", r".block\1.proj."),
    (r"\.norm(\d)\.", r".block\1.norm."),
    (r"\.skip\.", ".res_conv."),
    (r"\.fn\.norm\.weight$", ".fn.norm.g"),
    (r"\.fn\.qkv\.", ".fn.fn.to_qkv."),
    (r"\.2\.fn\.out\.", ".2.fn.fn.to_out.0."),
    (r"\.2\.fn\.out_norm\.weight$", ".2.fn.fn.to_out.1.g"),
    (r"^mid_attn\.fn\.out\.", "mid_attn.fn.fn.to_out."),
)


def published_name(name: str) -> str:
    """The public code's name of one of `TriGen`'s parameters."""
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def read_pretrained(
    source: str | os.PathLike[str], *, revision: str | None = None
) -> tuple[TriGenConfig, dict[str, Tensor]]:
    """The configuration, and the tensors by `TriGen`'s names, of a folder, a file or a hub id.

    Raises:
        CheckpointError: nothing there, several candidates, or a file that cannot be read.
        ImportError: a hub id without huggingface_hub installed.
    """
    folder, named = locate(source, revision=revision)
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    pickled = named is not None and named.endswith(PICKLES)  # this package writes none
    content = read_json(folder / CONFIG_JSON) if CONFIG_JSON in names and not pickled else None
    own = isinstance(content, Mapping) and content.get("format") == FORMAT
    if own or (content is not None and named in (None, CONFIG_JSON)):
        config = read_config_dict(content, TriGenConfig(), FORMAT, where=str(folder / CONFIG_JSON))
        weights = WEIGHTS if named in (None, CONFIG_JSON) else named
        return config, read_weights(folder / weights)[0]
    path = folder / (named or choose_weights(names, str(folder)))
    tensors, _ = read_weights(path, under=UNDER, inert=INERT)
    config = config_of(tensors, where=str(path))
    return config, own_tensors(config, tensors)


def config_of(tensors: Mapping[str, Tensor], *, where: str) -> TriGenConfig:
    """The configuration of a public checkpoint, from the shapes of its tensors.

    Raises:
        CheckpointError: it is no checkpoint of G3DR's f_trigen.
    """

    def side(name: str, axis: int) -> int:
        tensor = tensors.get(name)
        if tensor is None or tensor.ndim <= axis:
            raise CheckpointError(
                f"{where} has no {name} of G3DR's network, so it is no checkpoint of its public "
                f"code; a model of this package needs its {CONFIG_JSON} beside {WEIGHTS}"
            )
        return tensor.shape[axis]

    width = side("init_conv.weight", 0)
    stages = {m[1] for name in tensors if (m := re.match(r"downs\.(\d+)\.", name))}
    ends = [f"downs.{i}.3.{'1.' * (i < len(stages) - 1)}weight" for i in range(len(stages))]
    return replace(
        TriGenConfig.released(),
        size=side("pos_embed", 2),
        width=width,
        multipliers=tuple(side(name, 0) // max(width, 1) for name in ends),
        learned=side("pos_embed", 1),
        heads=HEADS,
        head_dim=side("mid_attn.fn.fn.to_qkv.weight", 0) // (3 * HEADS),
        channels=side("decoder.net.0.weight", 1),
        hidden=side("decoder.net.0.weight", 0),
    )


def own_tensors(config: TriGenConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public checkpoint's tensors by `TriGen`'s names; misfits are reported by the public names.

    Raises:
        CheckpointError: names or shapes differ from those of ``config``.
    """
    from fastrecon.models.trigen import TriGen

    state = TriGen.skeleton(config, len(tensors)).state_dict()
    names = {published_name(own): own for own in state}
    check_state_dict(tensors, {name: state[own] for name, own in names.items()})
    return {own: tensors[name] for name, own in names.items()}
