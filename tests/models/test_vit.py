"""The encoder against transformers' ViT, and the position table against its formula."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F

from fastrecon.config import EncoderConfig
from fastrecon.models.vit import ImageTokenizer, VisionTransformer, resize_positions
from fastrecon.perceptual.libraries import import_torchvision

CONFIG = EncoderConfig(
    image_size=32, patch_size=8, dim=48, depth=2, heads=3, mlp_dim=96, position_grid=4
)
RENAMED = {  # this package's (and transformers 4's) names -> those of transformers 5
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def loud(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random parameters large enough that every one of them shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def test_last_hidden_state_is_that_of_transformers() -> None:
    with contextlib.suppress(ImportError):
        import_torchvision()  # transformers imports it where it is installed
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=96,
            image_size=32,
            patch_size=8,
            layer_norm_eps=1e-12,
        )
    ).eval()
    ours = loud(VisionTransformer(CONFIG)).eval()
    state = ours.state_dict()
    if "layers.0.mlp.fc1.weight" in theirs.state_dict():
        for old, new in RENAMED.items():
            state = {name.replace(old, new): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state)  # strict: the same parameters, the pooler among them
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(pixel_values=images).last_hidden_state
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.shape == (2, 17, 48)


def test_tokens_see_imagenet_normalised_pictures() -> None:
    tokenizer = loud(ImageTokenizer(CONFIG))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images = torch.rand(1, 3, 32, 32)
    assert isinstance(tokenizer, ImageTokenizer)
    torch.testing.assert_close(tokenizer(images), tokenizer.model((images - mean) / std))
    assert not [name for name in tokenizer.state_dict() if "mean" in name or "std" in name]


def test_a_table_of_the_right_size_is_used_as_it_is() -> None:
    table = torch.randn(1, 1 + 14 * 14, 4)
    assert resize_positions(table, 14, 14) is table


def cubic_weights(position: float, size: int) -> torch.Tensor:
    """Keys' cubic (a = -0.75) around ``position`` in cell units, edge cells repeated."""
    weights = torch.zeros(size, dtype=torch.float64)
    base = int(position // 1)
    for cell in range(base - 1, base + 3):
        x = abs(position - cell)
        if x <= 1:
            w = 1.25 * x**3 - 2.25 * x**2 + 1
        else:
            w = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        weights[min(max(cell, 0), size - 1)] += w
    return weights


def test_a_table_is_resized_by_scale_factor() -> None:
    table = torch.randn(1, 1 + 14 * 14, 3, dtype=torch.float64)
    resized = resize_positions(table, 32, 32)
    assert resized.shape == (1, 1025, 3)
    torch.testing.assert_close(resized[:, 0], table[:, 0])
    # output cell i lies at (i + 1/2) * 14 / 32.1 - 1/2 of the table
    matrix = torch.stack([cubic_weights((i + 0.5) * 14 / 32.1 - 0.5, 14) for i in range(32)])
    expected = torch.einsum("ri,cj,ijd->rcd", matrix, matrix, table[0, 1:].view(14, 14, 3))
    torch.testing.assert_close(resized[0, 1:].view(32, 32, 3), expected, rtol=1e-6, atol=1e-6)
    to_size = F.interpolate(
        table[:, 1:].view(1, 14, 14, 3).permute(0, 3, 1, 2), size=(32, 32), mode="bicubic"
    )
    assert (to_size[0].permute(1, 2, 0) - expected).abs().max() > 1e-3, "not the size variant"
