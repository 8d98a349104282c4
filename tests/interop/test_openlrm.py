"""OpenLRM's checkpoints: every name and shape of the released sizes, and what is refused."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastrecon.checkpoint import CheckpointError, save_tensors
from fastrecon.interop.openlrm import (
    ENCODERS,
    config_from_json,
    openlrm_config,
    own_tensors,
    published_names,
    published_shapes,
)
from fastrecon.models import LRM
from fastrecon.reconstruct import Options, reconstruct_all

BASE: dict[str, Any] = {  # config.json of openlrm-mix-base-1.1
    "camera_embed_dim": 1024,
    "rendering_samples_per_ray": 96,
    "transformer_dim": 768,
    "transformer_layers": 12,
    "transformer_heads": 12,
    "triplane_low_res": 32,
    "triplane_high_res": 64,
    "triplane_dim": 48,
    "encoder_type": "dinov2",
    "encoder_model_name": "dinov2_vitb14_reg",
    "encoder_feat_dim": 768,
    "encoder_freeze": False,
}
SIZES = {  # width, layers, channels; encoder's width, heads; picture; tensors and parameters
    "small": (512, 12, 32, 384, 6, 224, 456, 111_390_948),
    "base": (768, 12, 48, 768, 12, 336, 432, 260_201_972),
    "large": (1024, 16, 80, 768, 12, 448, 544, 452_138_004),
}
FILES = {"small": 446e6, "base": 1.04e9, "large": 1.81e9}
"""Bytes of the released files, as OpenLRM's model card has them."""


def published(dim: int, layers: int, channels: int, width: int) -> dict[str, tuple[int, ...]]:
    """The parameters of a released checkpoint, layer by layer."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, inner: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, inner)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    vit = "encoder.model"
    shapes[f"{vit}.cls_token"] = (1, 1, width)
    shapes[f"{vit}.pos_embed"] = (1, 1 + 37 * 37, width)
    shapes[f"{vit}.register_tokens"] = (1, 4, width)
    shapes[f"{vit}.patch_embed.proj.weight"] = (width, 3, 14, 14)
    shapes[f"{vit}.patch_embed.proj.bias"] = (width,)
    for i in range(12):
        block = f"{vit}.blocks.{i}"
        norm(f"{block}.norm1", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        shapes[f"{block}.ls1.gamma"] = shapes[f"{block}.ls2.gamma"] = (width,)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.fc1", 4 * width, width)
        linear(f"{block}.mlp.fc2", width, 4 * width)
    norm(f"{vit}.norm", width)
    linear("camera_embedder.mlp.0", 1024, 16)
    linear("camera_embedder.mlp.2", 1024, 1024)
    shapes["pos_embed"] = (1, 3 * 32 * 32, dim)
    for i in range(layers):
        layer = f"transformer.layers.{i}"
        for k in (1, 2, 3):
            norm(f"{layer}.norm{k}.norm", dim)
            linear(f"{layer}.norm{k}.mlp.1", 2 * dim, 1024)
        if width == dim:
            shapes[f"{layer}.cross_attn.in_proj_weight"] = (3 * dim, dim)
        else:
            shapes[f"{layer}.cross_attn.q_proj_weight"] = (dim, dim)
            shapes[f"{layer}.cross_attn.k_proj_weight"] = (dim, width)
            shapes[f"{layer}.cross_attn.v_proj_weight"] = (dim, width)
        shapes[f"{layer}.self_attn.in_proj_weight"] = (3 * dim, dim)
        linear(f"{layer}.cross_attn.out_proj", dim, dim, bias=False)
        linear(f"{layer}.self_attn.out_proj", dim, dim, bias=False)
        linear(f"{layer}.mlp.0", 4 * dim, dim)
        linear(f"{layer}.mlp.3", dim, 4 * dim)
    norm("transformer.norm", dim)
    shapes["upsampler.weight"], shapes["upsampler.bias"] = (dim, channels, 2, 2), (channels,)
    for i, (out, inner) in enumerate([(64, 3 * channels), (64, 64), (64, 64), (4, 64)]):
        linear(f"synthesizer.decoder.net.{2 * i}", out, inner)
    return shapes


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_those_of_the_released_checkpoints(size: str) -> None:
    dim, layers, channels, width, heads, picture, tensors, parameters = SIZES[size]
    config = openlrm_config(size)
    with torch.device("meta"):
        state = LRM(config).state_dict()
    shapes = {name: tuple(t.shape) for name, t in published_shapes(state).items()}
    assert shapes == published(dim, layers, channels, width)
    assert len(shapes) == tensors
    assert sum(t.numel() for t in state.values()) == parameters
    assert 4 * parameters == pytest.approx(FILES[size], rel=3e-3)
    assert (config.encoder.heads, config.encoder.image_size) == (heads, picture)
    assert config.backbone.head_dim == 64
    assert config.render.n_samples == config.render.n_importance == (64 if size == "large" else 48)


def test_config_json_of_the_base_model() -> None:
    config = config_from_json(BASE)
    assert config == openlrm_config("base")
    assert config.fov_deg == pytest.approx(67.3801, abs=1e-4)  # focal length 0.75
    assert (config.camera_distance, config.mesh_level) == (2.0, 3.0)
    assert config.input_background == 1.0
    assert config.render.axes == ("yx", "yz", "zx")
    with pytest.raises(ValueError, match="'small', 'base', 'large'"):
        openlrm_config("huge")


# --- a small checkpoint ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_json() -> Iterator[dict[str, Any]]:
    """A configuration whose encoder, the smallest of its kind, is known for these tests only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "dinov2_vitt14", (24, 1, 3))
        yield TINY


TINY = BASE | {
    "camera_embed_dim": 16,
    "rendering_samples_per_ray": 16,
    "transformer_dim": 24,
    "transformer_layers": 1,
    "transformer_heads": 2,
    "triplane_low_res": 4,
    "triplane_high_res": 8,
    "triplane_dim": 4,
    "encoder_model_name": "dinov2_vitt14_reg",
    "encoder_feat_dim": 24,
    "source_image_res": 28,
}


@pytest.fixture(scope="module")
def tiny_state(tiny_json: dict[str, Any]) -> dict[str, Tensor]:
    """Its weights in OpenLRM's layout, made up."""
    with torch.device("meta"):
        state = LRM(config_from_json(tiny_json)).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.05 * torch.randn(t.shape, generator=generator)
        for name, t in published_shapes(state).items()
    }


@pytest.fixture
def folder(tmp_path: Path, tiny_json: dict[str, Any], tiny_state: dict[str, Tensor]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(tiny_json))
    save_tensors(tmp_path / "model.safetensors", tiny_state)
    return tmp_path


def assert_loaded(model: LRM, state: dict[str, Tensor]) -> None:
    own = dict(model.state_dict())
    assert_close(own, own_tensors(state, own), rtol=0, atol=0)
    embeddings = own["tokenizer.embeddings"]  # (3, dim, g, g), row 1, column 2 of the third plane
    assert_close(embeddings[2, :, 1, 2], state["pos_embed"][0, 2 * 16 + 4 + 2], rtol=0, atol=0)
    query, key, value = state["transformer.layers.0.cross_attn.in_proj_weight"].chunk(3)
    cross = "backbone.layers.0.cross_attn"
    for name, tensor in (("q", query), ("k", key), ("v", value)):
        assert_close(own[f"{cross}.to_{name}.weight"], tensor, rtol=0, atol=0)


def test_folders_and_files_load(folder: Path, tiny_state: dict[str, Tensor]) -> None:
    for source in (folder, folder / "config.json", folder / "model.safetensors"):
        model = LRM.from_pretrained(source)
        assert_loaded(model, tiny_state)
        assert not model.training
        assert model.camera_embedder.canonical[0, 3] == 2.0, "the camera stands at (2, 0, 0)"
        assert all(p.is_contiguous() for p in model.parameters())


def test_the_hubs_pickle_loads_and_safetensors_are_preferred(
    folder: Path, tiny_state: dict[str, Tensor]
) -> None:
    torch.save(tiny_state, folder / "pytorch_model.bin")
    assert_loaded(LRM.from_pretrained(folder / "pytorch_model.bin"), tiny_state)
    (folder / "model.safetensors").unlink()
    assert_loaded(LRM.from_pretrained(folder), tiny_state)
    save_tensors(folder / "model.safetensors", tiny_state)
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert_loaded(LRM.from_pretrained(folder), tiny_state)


def test_hub_ids(
    folder: Path, tiny_state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tiny_state, folder / "pytorch_model.bin")

    class HfApi:
        def list_repo_files(self, repository: str, revision: str | None = None) -> list[str]:
            return ["README.md", *os.listdir(folder)]

    hub = types.SimpleNamespace(HfApi=HfApi, snapshot_download=lambda *args, **kwargs: str(folder))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]
    assert_loaded(LRM.from_pretrained("zxhezexin/openlrm-mix-base-1.1"), tiny_state)


def test_own_folders_hold_this_model_too(folder: Path, tmp_path: Path) -> None:
    model = LRM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "own")
    again = LRM.from_pretrained(tmp_path / "own")
    assert again.config == model.config
    images = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(again.encode(images), model.encode(images))


def test_a_picture_file_becomes_a_mesh(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.new("RGBA", (40, 40))
    picture.paste((200, 40, 40, 255), (8, 8, 32, 32))
    picture.save(tmp_path / "red.png")
    model = LRM.from_pretrained(folder)
    with torch.no_grad():  # a solid object: densities are high wherever there are planes
        bias = model.decoder_view.biases[-1]
        assert bias is not None
        bias[0] = 9.0
    model.save_pretrained(tmp_path / "own")
    options = Options(
        (tmp_path / "red.png",),
        out=tmp_path / "out",
        weights=str(tmp_path / "own"),
        resolution=8,
        frames=1,
        size=8,
        device="cpu",
    )
    assert reconstruct_all(options) == 0
    written = sorted(p.name for p in (tmp_path / "out" / "red").iterdir())
    assert written == [
        "contact_sheet.png",
        "depth.png",
        "input.png",
        "mesh.glb",
        "normal.png",
        "turntable.gif",
    ]


# --- what is refused ---------------------------------------------------------------------------


def test_misfits_are_named_as_in_the_file(folder: Path, tiny_state: dict[str, Tensor]) -> None:
    state = dict(tiny_state)
    del state["pos_embed"]
    state["encoder.model.mask_token"] = torch.zeros(1, 24)
    state["transformer.layers.0.cross_attn.in_proj_weight"] = torch.zeros(3 * 24, 23)
    state["upsampler.bias"] = torch.zeros(4, dtype=torch.int64)
    save_tensors(folder / "model.safetensors", state)
    with pytest.raises(CheckpointError) as caught:
        LRM.from_pretrained(folder)
    message = str(caught.value)
    assert "1 missing: pos_embed" in message
    assert "1 unexpected: encoder.model.mask_token" in message
    assert "cross_attn.in_proj_weight is (72, 23), not (72, 24)" in message
    assert "upsampler.bias is torch.int64" in message


def test_another_sizes_weights_do_not_fit(folder: Path, tiny_json: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_json | {"triplane_dim": 5}))
    with pytest.raises(CheckpointError, match=r"upsampler.weight is \(24, 4, 2, 2\), not"):
        LRM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"encoder_type": "dino"}, "encoder_type must be 'dinov2'"),
        ({"encoder_model_name": "dinov2_vitg14_reg"}, "dinov2_vitb14_reg"),
        ({"encoder_model_name": 3}, "got 3"),
        ({"encoder_feat_dim": 768}, "encoder_feat_dim must be 24"),
        ({"triplane_high_res": 9}, "triplane_high_res must be 8"),
        ({"transformer_heads": 5}, "multiple of transformer_heads"),
        ({"transformer_layers": 10**9}, "layers but the file only"),
        ({"transformer_layers": "many"}, "transformer_layers must be a positive integer"),
        ({"rendering_samples_per_ray": 6}, "n_samples"),
        ({"source_image_res": 30}, "multiple of 14, got 30"),
        ({"source_image_res": None}, "source_image_res"),
        ({"model_lora_rank": 4}, "unknown key 'model_lora_rank'"),
    ],
)
def test_configurations_that_are_not_read(
    folder: Path, tiny_json: dict[str, Any], change: dict[str, Any], hint: str
) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_json | change))
    with pytest.raises(CheckpointError, match=hint):
        LRM.from_pretrained(folder)


def test_a_width_of_unknown_picture_size_asks_for_it(tiny_json: dict[str, Any]) -> None:
    content = {k: v for k, v in tiny_json.items() if k != "source_image_res"}
    with pytest.raises(ValueError, match=r'add "source_image_res"'):
        config_from_json(content)
    with pytest.raises(ValueError, match="lacks transformer_layers"):
        config_from_json({k: v for k, v in BASE.items() if k != "transformer_layers"})


def test_three_matrices_or_one() -> None:
    config = openlrm_config("small")
    with torch.device("meta"):
        separate = published_names(LRM(config).state_dict())
        joined = published_names(
            LRM(
                replace(
                    config,
                    encoder=openlrm_config("base").encoder,
                    backbone=openlrm_config("base").backbone,
                )
            ).state_dict()
        )
    layer = "transformer.layers.3.cross_attn"
    assert separate[f"{layer}.k_proj_weight"] == ["backbone.layers.3.cross_attn.to_k.weight"]
    assert joined[f"{layer}.in_proj_weight"] == [
        f"backbone.layers.3.cross_attn.to_{part}.weight" for part in "qkv"
    ]
