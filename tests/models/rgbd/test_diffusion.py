"""The RGB-D diffusion: its schedule, guidance and sampling, its files, what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the RGB-D models are made of diffusers' parts")

from fastrecon.checkpoint import CheckpointError, load_tensors, save_tensors
from fastrecon.config.rgbd import DenoiserConfig, DiffusionConfig
from fastrecon.data.rgbd import RGBDError
from fastrecon.models.rgbd import RGBDDiffusion
from tests.micro_rgbd import CLASSES, DIFFUSION, diffusion, pictures

F64 = torch.float64


@pytest.fixture(scope="module")
def model() -> RGBDDiffusion:
    return diffusion()


def alphas_by_hand(first: float = 0.00085, last: float = 0.012, steps: int = 1000) -> Tensor:
    """prod(1 - beta), the square roots of beta linear."""
    roots = torch.linspace(math.sqrt(first), math.sqrt(last), steps, dtype=F64)
    return torch.cumprod(1 - roots**2, 0)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the schedule --------------------------------------------------------------------------------


def test_the_published_constants() -> None:
    config = DiffusionConfig()
    assert (config.noise_steps, config.betas, config.sampling_steps) == (1000, (0.00085, 0.012), 50)


def test_noise_is_added_as_the_formula_says(model: RGBDDiffusion) -> None:
    a = alphas_by_hand()
    assert_close(model.schedule.alphas_cumprod.double(), a, rtol=1e-4, atol=1e-6)
    x, noise = torch.randn(2, 3, 4, 2, 2, generator=generator())
    steps = torch.tensor([0, 500, 999])
    at = a[steps][:, None, None, None]
    wanted = at.sqrt() * x + (1 - at).sqrt() * noise
    assert_close(model.add_noise(x, noise, steps), wanted.float(), rtol=1e-4, atol=1e-5)


def test_ddim_by_hand(model: RGBDDiffusion) -> None:
    steps, guidance = 5, 2.5
    made = model.sample([1], 2, guidance, steps, generator())
    a = alphas_by_hand()
    start = generator()
    x = torch.stack([torch.randn(4, 2, 2, generator=start) for _ in range(2)]).double()
    times = [k * 200 + 1 for k in reversed(range(steps))]
    one, none = torch.full((2,), 1), torch.full((2,), len(CLASSES))
    for t in times:
        at = torch.full((2,), t)
        with torch.no_grad():
            bound = model.predict(x.float(), at, one).double()
            free = model.predict(x.float(), at, none).double()
        noise = (1 - guidance) * free + guidance * bound
        before = a[t - 200] if t >= 200 else a[0]
        clean = (x - (1 - a[t]).sqrt() * noise) / a[t].sqrt()
        x = before.sqrt() * clean + (1 - before).sqrt() * noise
    wanted = model.decode(x.float())
    assert_close(made.images, wanted.images, rtol=1e-3, atol=1e-3)
    assert_close(made.depth, wanted.depth, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_every_number_of_steps_ends_at_a_schedules_start(model: RGBDDiffusion, steps: int) -> None:
    times = model.ddim(steps).timesteps
    assert len(times) == steps
    assert 0 <= int(times.min()) <= int(times.max()) <= 999


# --- guidance ------------------------------------------------------------------------------------


def test_guidance_by_hand(model: RGBDDiffusion) -> None:
    x, at = torch.randn(2, 4, 2, 2, generator=generator()), torch.tensor([10, 900])
    bound, null = torch.tensor([0, 2]), torch.tensor([3, 3])
    with torch.no_grad():
        known = model.predict(x, at, bound)
        free = model.predict(x, at, null)
        found = {w: model.guided(x, at, bound, null, w) for w in (0.0, 1.0, 4.0)}
    assert not torch.allclose(known, free)
    for weight, value in found.items():
        assert_close(value, free + weight * (known - free), rtol=1e-4, atol=1e-5)


# --- sampling ------------------------------------------------------------------------------------


def test_ranges_and_order(model: RGBDDiffusion) -> None:
    made = model.sample(["teapot", 0], 2, steps=3, generator=generator())
    assert made.images.shape == (4, 3, 16, 16)
    assert made.depth.shape == (4, 1, 16, 16)
    for tensor in made:
        assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    teapots = model.sample(torch.tensor([2]), 2, steps=3, generator=generator())
    assert_close(made.images[:2], teapots.images, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made.images[0], made.images[2], atol=1e-3)


def test_a_seed_gives_the_same_first_pictures_however_many_follow(model: RGBDDiffusion) -> None:
    few = model.sample([0], 2, steps=2, generator=generator())
    many = model.sample([0], 5, steps=2, generator=generator())
    assert_close(many.images[:2], few.images, rtol=1e-4, atol=1e-5)
    other = model.sample([0], 2, steps=2, generator=generator(4))
    assert not torch.allclose(other.images, few.images, atol=1e-3)


def test_modes(model: RGBDDiffusion) -> None:
    model.train()
    assert not model.autoencoder.network.training
    assert model.denoiser.network.training
    model.sample([0], steps=1, generator=generator())
    assert model.denoiser.training
    model.eval()
    trainable = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"denoiser"}


def test_latents_have_deviation_one() -> None:
    model = diffusion()
    images, depth = pictures(6)
    model.fit_scale(model.autoencoder.encode(images, depth))
    assert float(model.encode(images, depth).std()) == pytest.approx(1.0, rel=1e-4)
    with torch.no_grad():
        wanted = model.autoencoder.decode(model.autoencoder.encode(images, depth))
    assert_close(tuple(model.decode(model.encode(images, depth))), wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match="learnt nothing"):
        model.fit_scale(torch.zeros(4, 4, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"labels": ["golden retreiver"]}, RGBDError, "golden retriever"),
        ({"labels": [3]}, ValueError, "between 0 and 2"),
        ({"labels": []}, ValueError, "nothing to sample"),
        ({"labels": [0], "n": 0}, ValueError, "nothing to sample"),
        ({"labels": [0], "steps": 0}, ValueError, "steps must lie"),
        ({"labels": [0], "steps": 1001}, ValueError, "steps must lie"),
        ({"labels": [0], "guidance": -1.0}, ValueError, "guidance"),
    ],
)
def test_what_cannot_be_sampled(
    model: RGBDDiffusion, arguments: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        model.sample(**arguments)


# --- the DiT -------------------------------------------------------------------------------------


def test_the_dit_starts_at_zero_and_drops_no_label_itself() -> None:
    torch.manual_seed(0)
    model = RGBDDiffusion(replace(DIFFUSION, denoiser=replace(DIFFUSION.denoiser, kind="dit")))
    x, at = torch.randn(2, 4, 2, 2), torch.tensor([3, 700])
    assert float(model.predict(x, at, torch.tensor([0, 1])).detach().abs().max()) == 0
    stirred = diffusion(kind="dit").train()
    found = [stirred.predict(x, at, torch.tensor([0, 3])).detach() for _ in range(6)]
    for other in found[1:]:
        assert_close(other, found[0], rtol=0, atol=0)
    null = stirred.predict(x, at, torch.tensor([3, 3])).detach()
    assert not torch.allclose(null[0], found[0][0])
    assert_close(null[1], found[0][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (DenoiserConfig(), 259),
        (DenoiserConfig(conditioning="text"), 395),
        (DenoiserConfig.dit_xl(), 750),
    ],
)
def test_full_sizes(config: DenoiserConfig, millions: int) -> None:
    from fastrecon.models.rgbd.denoiser import Denoiser

    classes = tuple(map(str, range(1000)))
    with torch.device("meta"):
        model = Denoiser(DiffusionConfig(denoiser=config, classes=classes))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_round_trip_through_a_folder(tmp_path: Path, kind: str) -> None:
    model = diffusion(kind=kind)
    model.save_pretrained(tmp_path)
    again = RGBDDiffusion.from_pretrained(tmp_path)
    assert again.classes == CLASSES
    assert float(again.latent_scale) == pytest.approx(0.7)
    made, wanted = (m.sample(["teapot"], 1, steps=2, generator=generator()) for m in (again, model))
    assert_close(tuple(made), tuple(wanted), rtol=0, atol=0)


def _rewrite(folder: Path, path: tuple[str, ...], value: object) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    target = content["model"]
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("denoiser", "layers"), 10**8, "layers"),
        (("denoiser", "kind"), "mamba", "'unet' or 'dit'"),
        (("denoiser", "widths"), [8, 32], "do not fit"),
        (("classes",), ["a", "b"], "do not fit"),
        (("classes",), ["a", "a", "b"], "different names"),
        (("classes",), [1, 2, 3], "list of str"),
        (("betas",), [0.5, 0.1], "betas"),
        (("noise_steps",), 10**9, "noise_steps"),
        (("autoencoder", "widths"), [8, 8, 8, 16], "do not fit"),
    ],
)
def test_a_hostile_configuration(
    tmp_path: Path, model: RGBDDiffusion, path: tuple[str, ...], value: object, words: str
) -> None:
    model.save_pretrained(tmp_path)
    _rewrite(tmp_path, path, value)
    with pytest.raises(CheckpointError, match=words):
        RGBDDiffusion.from_pretrained(tmp_path)


def test_a_dit_of_any_size_is_refused_before_it_fills_memory(
    tmp_path: Path, model: RGBDDiffusion
) -> None:
    model.save_pretrained(tmp_path)
    _rewrite(tmp_path, ("denoiser", "kind"), "dit")
    _rewrite(tmp_path, ("denoiser", "heads"), 10**9)
    with pytest.raises(CheckpointError, match="describes no model"):
        RGBDDiffusion.from_pretrained(tmp_path)


def test_a_scale_that_is_no_scale(tmp_path: Path, model: RGBDDiffusion) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_tensors(path, load_tensors(path) | {"latent_scale": torch.zeros(())})
    with pytest.raises(CheckpointError, match="latent_scale"):
        RGBDDiffusion.from_pretrained(tmp_path)


def test_another_kind_of_model(tmp_path: Path, model: RGBDDiffusion) -> None:
    model.autoencoder.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="fastrecon-rgbd-diffusion"):
        RGBDDiffusion.from_pretrained(tmp_path)
