"""Checkpoints of f_trigen: the public code's, by its names, and those that must not load."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor
from torch.testing import assert_close

from fastrecon.checkpoint import CheckpointError, save_tensors
from fastrecon.config.g3dr import PLANE_AXES, TriGenConfig
from fastrecon.interop.checkpoints import read_weights
from fastrecon.interop.g3dr import INERT, UNDER, published_name
from fastrecon.models import LRM
from fastrecon.models.trigen import TriGen

PUBLIC = TriGenConfig(  # a small one as the public code would build it: 4 heads, EG3D's axes
    size=8,
    width=8,
    multipliers=(1, 2),
    learned=4,
    heads=4,
    head_dim=2,
    channels=3,
    hidden=5,
    render=RenderSettings.g3dr(axes=PLANE_AXES["eg3d"]),
)
OWN = replace(
    PUBLIC,
    heads=2,
    levels=(1, 1, 2),
    render=RenderSettings.g3dr(n_samples=8, background=(0.1, 0.2, 0.3)),
    mesh_level=3.0,
)


@pytest.fixture(scope="module")
def trained() -> TriGen:
    torch.manual_seed(0)
    return TriGen(PUBLIC).eval()


@pytest.fixture(scope="module")
def published(trained: TriGen) -> dict[str, Tensor]:
    """Its tensors by the public names."""
    return {published_name(name): t for name, t in trained.state_dict().items()}


def container(published: dict[str, Tensor]) -> dict[str, Any]:
    """What the public training script saves, with the schedule of an older PyTorch."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.Adam([parameter], 1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-4, total_steps=10)
    parameter.grad = torch.ones(2)
    optimiser.step()
    return {  # up to PyTorch 2.0 the schedule held a function
        "step": 3,
        "model": {f"module.{name}": t for name, t in published.items()},
        "opt": optimiser.state_dict(),
        "scheduler": schedule.state_dict()
        | {"anneal_func": torch.optim.lr_scheduler.OneCycleLR._annealing_cos},  # as up to 2.0
    }


def assert_same(model: TriGen, trained: TriGen) -> None:
    assert model.config == trained.config
    assert_close(dict(model.state_dict()), dict(trained.state_dict()), rtol=0, atol=0)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())


# --- names ---------------------------------------------------------------------------------------


def public_names(stages: int) -> set[str]:
    """The parameters of the public network, part by part."""
    names = {"pos_embed"}

    def both(name: str) -> None:
        names.update((f"{name}.weight", f"{name}.bias"))

    def block(name: str, changes_width: bool) -> None:
        for part in ("mlp.1", "block1.proj", "block1.norm", "block2.proj", "block2.norm"):
            both(f"{name}.{part}")
        if changes_width:
            both(f"{name}.res_conv")

    for name in ("init_conv", "time_mlp.1", "time_mlp.3", "final_conv"):
        both(name)
    for name in ("decoder.net.0", "decoder.net.2", "mid_attn.fn.fn.to_out"):
        both(name)
    names.update(("mid_attn.fn.norm.g", "mid_attn.fn.fn.to_qkv.weight"))
    for side, changes_width in (("downs", False), ("ups", True)):
        for i in range(stages):
            stage = f"{side}.{i}"
            block(f"{stage}.0", changes_width)
            block(f"{stage}.1", changes_width)
            attention = f"{stage}.2.fn"
            names.update((f"{attention}.norm.g", f"{attention}.fn.to_qkv.weight"))
            both(f"{attention}.fn.to_out.0")
            names.add(f"{attention}.fn.to_out.1.g")
            both(f"{stage}.3.1" if i < stages - 1 else f"{stage}.3")
    for name in ("mid_block1", "mid_block2", "final_res_block"):
        block(name, False)
    return names


def test_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = TriGen(TriGenConfig()).state_dict()
    published = {published_name(name): tuple(t.shape) for name, t in state.items()}
    assert set(published) == public_names(4)
    assert len(published) == len(state) == 279
    for name, shape in {
        "pos_embed": (1, 256, 128, 128),
        "init_conv.weight": (128, 260, 7, 7),
        "time_mlp.3.weight": (512, 512),
        "downs.0.3.1.weight": (128, 512, 1, 1),
        "downs.3.3.weight": (1024, 512, 3, 3),
        "mid_attn.fn.fn.to_qkv.weight": (384, 1024, 1, 1),
        "ups.0.0.block1.proj.weight": (1024, 1536, 3, 3),
        "ups.0.3.1.weight": (512, 1024, 3, 3),
        "ups.3.2.fn.fn.to_out.1.g": (1, 128, 1, 1),
        "final_res_block.mlp.1.weight": (512, 512),
        "final_conv.weight": (192, 256, 1, 1),
        "decoder.net.2.weight": (4, 64),
    }.items():
        assert published[name] == shape, name


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["file", "folder", "bare", "safetensors"])
def test_public_checkpoints(
    trained: TriGen, published: dict[str, Tensor], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "checkpoint_generic.pt"
    if how == "safetensors":
        path = path.with_suffix(".safetensors")
        save_tensors(path, published)
    else:
        torch.save(published if how == "bare" else container(published), path)
    assert_same(TriGen.from_pretrained(tmp_path if how == "folder" else path), trained)


def test_the_schedule_of_older_versions_is_not_looked_up(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    """A pickle that looks an attribute up is read with stand-ins, which find nothing."""
    path = tmp_path / "checkpoint_generic.pt"
    torch.save(container(published), path)
    with pytest.raises(CheckpointError, match="can run code"):  # so they are needed
        read_weights(path, under=UNDER)
    assert read_weights(path, under=UNDER, inert=INERT)[0].keys() == published.keys()
    with pytest.raises(CheckpointError, match="can run code"):  # and they are gone afterwards
        read_weights(path, under=UNDER)


def test_own_folders(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = TriGen(OWN).eval()
    model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["format"] == "fastrecon-trigen"
    for source in (tmp_path, tmp_path / "config.json", tmp_path / "model.safetensors"):
        assert_same(TriGen.from_pretrained(source), model)
    model.save_pretrained(tmp_path, dtype=torch.float16)
    again = TriGen.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=1e-3, atol=1e-4)
    model.state_dict()["decoder.net.0.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"decoder\.net\.0\.weight"):
        model.save_pretrained(tmp_path)


def test_a_public_pickle_beside_an_own_model(
    trained: TriGen, published: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = TriGen(OWN).eval()
    model.save_pretrained(tmp_path)
    torch.save(container(published), tmp_path / "checkpoint_generic.pt")
    assert_same(TriGen.from_pretrained(tmp_path), model)
    assert_same(TriGen.from_pretrained(tmp_path / "checkpoint_generic.pt"), trained)


def test_public_names_beside_some_other_configuration(
    trained: TriGen, published: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")  # as hubs like to find one
    save_tensors(tmp_path / "model.safetensors", published)
    assert_same(TriGen.from_pretrained(tmp_path / "model.safetensors"), trained)
    with pytest.raises(CheckpointError, match="name the weights file"):
        TriGen.from_pretrained(tmp_path)


def test_a_loaded_model_does_not_depend_on_its_file(
    trained: TriGen, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint_generic.pt"
    torch.save(container(published), path)
    model = TriGen.from_pretrained(path)
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_same(model, trained)


# --- what is not ---------------------------------------------------------------------------------


class Exploit:
    """Unpickled without protection, this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_a_hostile_pickle_does_not_run(published: dict[str, Tensor], tmp_path: Path) -> None:
    target, path = tmp_path / "ran", tmp_path / "checkpoint_generic.pt"
    torch.save(container(published) | {"scheduler": Exploit(target)}, path)
    with pytest.raises(CheckpointError, match="can run code"):
        TriGen.from_pretrained(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the pickle was harmless, so the test above proves nothing"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(published: dict[str, Tensor], tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint_generic.pt"
    torch.save(container(published), path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match="truncated"):
        TriGen.from_pretrained(path)


def test_garbage_and_pointers(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_generic.pt"
    for data, hint in (
        (os.urandom(2000), "download it again"),
        (b"<html>Google Drive - Virus scan warning</html>", "download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=hint):
            TriGen.from_pretrained(path)


def test_foreign_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content, hint in (
        ({"generator": {"w": torch.zeros(2)}, "step": 4}, "'generator', 'step'"),
        ([torch.zeros(2)], "got list"),
        ({"model": {"conv.weight": torch.zeros(2, 2)}}, "no init_conv.weight of G3DR's network"),
        ({"model": {"init_conv.weight": torch.zeros(())}}, "no init_conv.weight"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=hint):
            TriGen.from_pretrained(path)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"final_conv.bias": None}, "1 missing: final_conv.bias"),
        ({"scale": torch.zeros(1)}, "1 unexpected: scale"),
        ({"ups.1.3.bias": torch.zeros(9)}, r"ups.1.3.bias is \(9,\), not \(8,\)"),
        ({"init_conv.bias": torch.zeros(8, dtype=torch.int64)}, "init_conv.bias is torch.int64"),
        ({"init_conv.weight": torch.zeros(7, 8, 7, 7)}, "width must be a multiple of 8, got 7"),
        ({"init_conv.weight": torch.zeros(0, 8, 7, 7)}, "width must be a multiple of 8, got 0"),
        ({"downs.1.3.weight": torch.zeros(0, 8, 3, 3)}, "multipliers"),
    ],
)
def test_misfits_are_named(
    published: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor | None], hint: str
) -> None:
    content = {name: t for name, t in {**published, **change}.items() if t is not None}
    torch.save({"model": content}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=hint):
        TriGen.from_pretrained(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        TriGen.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no weights"):
        TriGen.from_pretrained(tmp_path)
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"never opened")
    with pytest.raises(CheckpointError, match=r"a\.pt, b\.pt; name one"):
        TriGen.from_pretrained(tmp_path)


def test_models_are_not_taken_for_each_other(tiny: LRM, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path / "lrm")
    with pytest.raises(CheckpointError, match="another kind of model"):
        TriGen.from_pretrained(tmp_path / "lrm")
    TriGen(OWN).save_pretrained(tmp_path / "trigen")
    with pytest.raises(CheckpointError, match="another kind of model"):
        LRM.from_pretrained(tmp_path / "trigen")


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"multipliers": "12"}, "model.multipliers must be a list of int"),
        ({"multipliers": [1, 2.5]}, "model.multipliers must be a list of int"),
        ({"multipliers": [1, True]}, "model.multipliers must be a list of int"),
        ({"multipliers": []}, "multipliers must be numbers"),
        ({"multipliers": [1] * 1000}, "1000 layers but the file only"),
        ({"levels": [0, -1]}, "levels must name"),
        ({"levels": [3.0]}, "model.levels must be a list of int"),
        ({"camera": {"depth_range": [6, 4]}}, "depth_range"),
        ({"camera": {"yaw_den": ["24", "6"]}}, "model.camera.yaw_den must be a list of float"),
        ({"render": {"axes": ["xy", "xz"]}}, "three pairs"),
        ({"trunk": 1}, "'trunk'"),
        ({"width": 16}, "of another shape"),
    ],
)
def test_config_fields_are_checked(tmp_path: Path, change: dict[str, Any], hint: str) -> None:
    TriGen(OWN).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["model"] |= change
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=hint):
        TriGen.from_pretrained(tmp_path)
