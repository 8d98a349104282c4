"""DINOv2: against transformers' own, and its position table."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fastrecon.config import EncoderConfig
from fastrecon.models.dinov2 import Dinov2
from fastrecon.models.vit import resize_positions
from fastrecon.perceptual.libraries import import_torchvision

CONFIG = EncoderConfig(
    kind="dinov2",
    image_size=28,
    patch_size=7,
    dim=24,
    depth=2,
    heads=3,
    mlp_dim=96,
    position_grid=6,
    registers=4,
)
RENAMED = {  # the names of the released weights -> those of transformers 4
    "blocks.": "encoder.layer.",
    "attn.proj.": "attention.output.dense.",
    "attn.qkv.": "attention.attention.qkv.",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
}
RENAMED_AGAIN = {  # transformers 4 -> transformers 5
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


@pytest.fixture
def model() -> Dinov2:
    torch.manual_seed(0)
    model = Dinov2(CONFIG)
    for parameter in model.parameters():  # so that every parameter shows in the output
        parameter.data = 0.3 * torch.randn_like(parameter)
    return model.eval()


def test_last_hidden_state_is_that_of_transformers(model: Dinov2) -> None:
    module = "transformers.models.dinov2_with_registers"
    with contextlib.suppress(ImportError):
        import_torchvision()  # transformers imports it where it is installed
    transformers = pytest.importorskip(module, reason="transformers is the oracle here")
    theirs = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            mlp_ratio=4,
            image_size=42,
            patch_size=7,
            num_register_tokens=4,
        )
    ).eval()
    state = {"embeddings.mask_token": torch.zeros(1, 24)}
    for name, tensor in model.state_dict().items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if name.startswith("norm."):
            name = f"layernorm.{name.removeprefix('norm.')}"
        if ".qkv." in name:
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[name.replace("qkv", part)] = value
        else:
            state[name] = tensor
    if "encoder.layer.0.attention.q_proj.weight" in theirs.state_dict():
        for old, new in RENAMED_AGAIN.items():
            state = {name.replace(old, new): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state)  # strict
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        expected = theirs(pixel_values=images).last_hidden_state
        tokens = model(images)
    kept = torch.cat([expected[:, :1], expected[:, 5:]], dim=1)
    torch.testing.assert_close(tokens, kept, rtol=1e-4, atol=1e-4)
    assert tokens.shape == (2, 17, 24)


def test_positions_are_resized_as_the_weights_were_trained(model: Dinov2) -> None:
    table = model.pos_embed
    assert model.positions(6, 6) is table, "the table itself where the grids agree"
    image = table[:, 1:].mT.reshape(1, 24, 6, 6)
    resized = F.interpolate(image, size=(4, 3), mode="bicubic", antialias=True)
    torch.testing.assert_close(model.positions(4, 3)[:, 1:], resized.flatten(2).mT)
    assert torch.equal(model.positions(4, 3)[:, 0], table[:, 0])
    plain = Dinov2(replace(CONFIG, registers=0))
    expected = resize_positions(plain.pos_embed, 4, 4)
    torch.testing.assert_close(plain.positions(4, 4), expected)


def test_without_registers_there_is_no_such_parameter() -> None:
    names = set(Dinov2(CONFIG).state_dict()) - set(
        Dinov2(replace(CONFIG, registers=0)).state_dict()
    )
    assert names == {"register_tokens"}


def test_registers_attend(model: Dinov2) -> None:
    images = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        before = model(images)
        assert model.register_tokens is not None
        model.register_tokens.add_(torch.randn(1, 4, 24))  # a constant would vanish in the norms
        assert (model(images) - before).abs().max() > 1e-3
