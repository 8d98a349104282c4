"""The RGB-D autoencoder: shapes and ranges, its posterior, its files, what it refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the RGB-D models are made of diffusers' parts")

from fastrecon.checkpoint import CheckpointError, load_tensors, save_tensors
from fastrecon.config.rgbd import AutoencoderConfig
from fastrecon.models.rgbd import RGBDAutoencoder
from fastrecon.models.rgbd.autoencoder import Posterior
from tests.micro_rgbd import AUTOENCODER, autoencoder, pictures


def test_the_full_size() -> None:
    with torch.device("meta"):
        model = RGBDAutoencoder(AutoencoderConfig())
    assert AutoencoderConfig().factor == 8
    assert AutoencoderConfig().latent_size == 32
    # KL-f8 of latent diffusion has 83,653,863 for three channels; one more is 9 weights for each
    # of 128 channels at both ends, and one bias
    network = sum(p.numel() for p in model.network.parameters())
    assert network == 83_653_863 + 2 * 128 * 9 + 1


def test_there_and_back() -> None:
    model = autoencoder()
    images, depth = pictures(3, size=24)  # resized
    latents = model.encode(images, depth)
    assert latents.shape == (3, 4, 2, 2)
    shown, known = model.decode(latents)
    assert shown.shape == (3, 3, 16, 16)
    assert known.shape == (3, 1, 16, 16)
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
    assert_close(model(images, depth), (shown, known))


def test_depth_is_the_fourth_channel() -> None:
    images, depth = pictures()
    joined = autoencoder().joined(images, depth)
    assert_close(joined[:, :3], 2 * images - 1)
    assert_close(joined[:, 3:], 2 * depth - 1)


def test_the_posterior_is_a_normal_distribution() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64).unbind(0)
    posterior = Posterior(mean, log_variance)
    noise = torch.randn_like(mean)
    assert_close(posterior.sample(noise), mean + log_variance.exp().sqrt() * noise)
    normal = torch.distributions.Normal(mean, log_variance.exp().sqrt())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    wanted = torch.distributions.kl_divergence(normal, standard).sum((1, 2, 3))
    assert_close(posterior.kl(), wanted)


def test_noise_moves_latents_by_the_posteriors_deviation() -> None:
    model = autoencoder()
    images, depth = pictures()
    posterior = model.posterior(model.joined(images, depth))
    noise = torch.randn(posterior.mean.shape)
    moved = model.encode(images, depth, noise) - model.encode(images, depth)
    assert_close(moved, noise * (0.5 * posterior.log_variance).exp())


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    model = autoencoder()
    model.save_pretrained(tmp_path / "m")
    again = RGBDAutoencoder.from_pretrained(tmp_path / "m")
    assert again.config == AUTOENCODER
    assert not again.training
    for (name, a), (_, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert_close(a, b, rtol=0, atol=0, msg=name)
    assert_close(again(*pictures()), model(*pictures()), rtol=0, atol=0)


def test_reading_does_not_disturb_random_numbers(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    RGBDAutoencoder.from_pretrained(tmp_path)
    assert_close(torch.rand(3), wanted, rtol=0, atol=0)


def _rewrite(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["model"].update(fields)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layers": 10**9}, "layers"),
        ({"widths": [8, 8, 8, 16]}, "do not fit"),
        ({"widths": [8] * 40}, "one to eight"),
        ({"size": 17}, "multiple of 8"),
        ({"size": "16"}, "size must be int"),
        ({"unheard_of": 1}, "unknown fields"),
        ({"critic_width": 0}, "unexpected"),
    ],
)
def test_a_hostile_configuration(tmp_path: Path, fields: dict, words: str) -> None:
    autoencoder().save_pretrained(tmp_path)
    _rewrite(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=words):
        RGBDAutoencoder.from_pretrained(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        RGBDAutoencoder.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        RGBDAutoencoder.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        RGBDAutoencoder.from_pretrained(tmp_path / "nowhere")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_tensors(path)
    tensors["network.decoder.conv_out.bias"][0] = float("nan")
    save_tensors(path, tensors)
    with pytest.raises(CheckpointError, match=r"not finite.*conv_out\.bias"):
        RGBDAutoencoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(AUTOENCODER, widths=(8, 6, 8, 8)), "multiples of the 4 groups"),
        (replace(AUTOENCODER, size=20), "multiple of 8"),
        (replace(AUTOENCODER, critic_layers=3), "too small for critic_layers"),
        (replace(AUTOENCODER, latent_channels=0), "latent_channels must be at least 1"),
    ],
)
def test_sizes_that_do_not_go_together(config: AutoencoderConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RGBDAutoencoder(config)


def test_pictures_without_depth_are_refused() -> None:
    images, _ = pictures()
    with pytest.raises(ValueError, match="depth must be"):
        autoencoder().encode(images, images)


def test_without_diffusers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"fastrecon\[generate\]"):
        RGBDAutoencoder(AUTOENCODER)
