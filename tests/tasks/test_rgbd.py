"""Training f_rgb: both stages in a row, exact resume, what is stored, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the RGB-D models are made of diffusers' parts")

from fastrecon.checkpoint import CheckpointError, load_tensors
from fastrecon.config.rgbd import RGBDAutoencoderConfig, RGBDDiffusionConfig
from fastrecon.data.rgbd import RGBDError
from fastrecon.models.rgbd import RGBDAutoencoder, RGBDDiffusion
from fastrecon.recipes import rgbd as recipes_rgbd
from fastrecon.tasks import task_for
from fastrecon.tasks.autoencoder import RGBDAutoencoding
from fastrecon.tasks.diffusion import RGBDGeneration, class_names
from fastrecon.trainer import Trainer
from tests.micro_rgbd import CLASSES, autoencoder, autoencoder_run, diffusion_run, write_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_set(tmp_path_factory.mktemp("set") / "rgbd"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    autoencoder().save_pretrained(folder)
    return str(folder)


def interrupted(cfg: Any, steps: int) -> None:
    """Train some steps, write a checkpoint, and forget the trainer."""
    trainer = Trainer(cfg)
    batch = trainer.share.batches("cpu")
    while trainer.step < steps:
        trainer.train_step(batch(trainer.step))
    trainer.save()


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_run_resumes_exactly(tmp_path: Path, data: str, weights: str, stage: str) -> None:
    def config(name: str) -> RGBDAutoencoderConfig | RGBDDiffusionConfig:
        if stage == "autoencoder":  # the critic starts at step 3, after the interruption
            return autoencoder_run(tmp_path / name, data)
        return diffusion_run(tmp_path / name, weights, data)

    Trainer(config("whole")).run()
    interrupted(config("parts"), 2)
    Trainer(config("parts")).run()
    whole, parts = (
        load_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts")
    )
    for name, value in whole.items():
        assert_close(parts[name], value, rtol=0, atol=0, msg=name)
    start = task_for(config("whole")).build_model().state_dict()
    moved = {n.split(".")[0] for n, t in whole.items() if not torch.equal(t, start[n])}
    learning = {"network", "critic"} if stage == "autoencoder" else {"denoiser"}
    assert learning <= moved
    if stage == "diffusion":
        known = load_tensors(Path(weights) / "model.safetensors")
        for name, value in known.items():
            if name.startswith("network."):
                assert_close(whole[f"autoencoder.{name}"], value, rtol=0, atol=0, msg=name)


def test_both_stages_in_a_row(tmp_path: Path, data: str) -> None:
    report = Trainer(autoencoder_run(tmp_path / "a", data)).run()
    assert report is not None
    assert report.score == report.scalars["psnr"]
    first = RGBDAutoencoder.from_pretrained(tmp_path / "a" / "model")
    report = Trainer(diffusion_run(tmp_path / "d", str(tmp_path / "a" / "model"), data)).run()
    assert report is not None
    assert report.score == -report.scalars["noise_error"]
    model = RGBDDiffusion.from_pretrained(tmp_path / "d" / "model")
    assert model.classes == tuple(sorted(CLASSES))
    assert model.config.autoencoder.critic_width == 0
    assert first.critic is not None
    with Image.open(next((tmp_path / "d" / "pictures").glob("held_out_*.png"))) as picture:
        assert picture.size == (2 * 16, 8 * 16)  # pictures and depth of eight samples
    stored = json.loads((tmp_path / "d" / "validation.json").read_text())
    assert stored["noise_error"]["mean"] == pytest.approx(-report.score)


def test_the_scale_is_that_of_the_first_pictures(tmp_path: Path, data: str, weights: str) -> None:
    task = RGBDGeneration(diffusion_run(tmp_path, weights, data))
    model = task.build_model()
    batches = task.batches("cpu")
    drawn = [batches(step) for step in range(32)]
    noise = torch.Generator().manual_seed(9)
    latents = torch.cat(
        [model.encode(b.images, b.depth, torch.randn(2, 4, 2, 2, generator=noise)) for b in drawn]
    )
    assert float(latents.std()) == pytest.approx(1.0, rel=0.1)


def test_text(tmp_path: Path, data: str, weights: str) -> None:
    pytest.importorskip("open_clip", reason="captions are read by CLIP")
    from fastrecon.checkpoint import save_tensors
    from fastrecon.models.rgbd.text import TextTower
    from fastrecon.perceptual import WeightsError
    from tests.micro_rgbd import TEXT, stirred

    tower = stirred(TextTower(TEXT))
    save_tensors(tmp_path / "clip.safetensors", tower.network.state_dict())
    cfg = diffusion_run(tmp_path / "d", weights, data)
    cfg = replace(
        cfg,
        model=replace(cfg.model, denoiser=replace(cfg.model.denoiser, conditioning="text")),
        networks=replace(cfg.networks, clip_weights=str(tmp_path / "clip.safetensors")),
        optim=replace(cfg.optim, steps=2),
    )
    Trainer(cfg).run()
    model = RGBDDiffusion.from_pretrained(tmp_path / "d" / "model")
    assert model.text is not None
    words = ["a photo of a golden retriever"]
    assert_close(model.text(model.text.tokens(words)), tower(tower.tokens(words)))
    by_words, by_number, other = (
        model.sample(labels, steps=2, guidance=5.0, generator=torch.Generator().manual_seed(0))
        for labels in (words, [0], ["a red car"])
    )
    assert_close(by_words.images, by_number.images)
    assert not torch.equal(by_words.images, other.images)
    missing = replace(cfg, networks=replace(cfg.networks, clip_weights=str(tmp_path / "no.pt")))
    with pytest.raises(WeightsError, match="open_clip_model"):
        task_for(missing).build_model()


def test_class_names_from_a_file(tmp_path: Path) -> None:
    folders = ("n01", "n02", "n03")
    cfg = diffusion_run(tmp_path, "w", str(write_set(tmp_path / "set", folders, 1)))
    assert class_names(cfg) == folders
    names = tmp_path / "names.txt"
    named = replace(cfg, class_names=str(names))
    names.write_text("n02 crane\nn01 golden retriever\nn03 crane\nn09 other\n")
    assert class_names(named) == ("golden retriever", "crane (n02)", "crane (n03)")
    names.write_text("n01 one\n")
    with pytest.raises(RGBDError, match="names no n02"):
        class_names(named)
    assert class_names(diffusion_run(tmp_path, "w")) == ("scene",)


def test_weights_of_another_size(tmp_path: Path, weights: str) -> None:
    cfg = diffusion_run(tmp_path, weights)
    other = replace(cfg.model.autoencoder, size=32)
    cfg = replace(cfg, model=replace(cfg.model, autoencoder=other))
    with pytest.raises(CheckpointError, match="size: 16 in the weights, 32"):
        task_for(cfg).build_model()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("loss.depth", 0.0, "loss.rgb and loss.depth"),
        ("loss.kl", -1.0, "loss.kl"),
        ("networks.perceptual", "none", "ssim"),
        ("model.critic_width", 0, "needs a critic"),
        ("data.flip", 2.0, "data.flip"),
        ("optim.lr", 0.0, "optim.lr"),
    ],
)
def test_an_autoencoder_that_cannot_be_trained(
    tmp_path: Path, path: str, value: object, words: str
) -> None:
    group, name = path.split(".")
    cfg = autoencoder_run(tmp_path)
    cfg = replace(cfg, **{group: replace(getattr(cfg, group), **{name: value})})
    with pytest.raises(ValueError, match=words):
        Trainer(cfg)


def test_a_diffusion_that_cannot_be_trained(tmp_path: Path, weights: str) -> None:
    cfg = diffusion_run(tmp_path, weights)
    for wrong, words in (
        (replace(cfg, autoencoder=""), "autoencoder names no weights"),
        (replace(cfg, loss=replace(cfg.loss, label_dropout=1.0)), "label_dropout"),
        (replace(cfg, class_names="names.txt"), "class_names"),
    ):
        with pytest.raises(ValueError, match=words):
            Trainer(wrong)


def test_processes_share_a_batch(tmp_path: Path) -> None:
    cfg = autoencoder_run(tmp_path)
    task = RGBDAutoencoding(cfg)
    parts = [task.share(rank, 2).batches("cpu")(3) for rank in range(2)]
    single = RGBDAutoencoding(replace(cfg, optim=replace(cfg.optim, batch_size=1))).batches("cpu")
    for rank, part in enumerate(parts):
        assert_close(part.images, single(6 + rank).images)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        task.share(0, 3)


@pytest.mark.parametrize("name", ["rgbd_autoencoder", "rgbd_diffusion"])
def test_recipes(name: str) -> None:
    full, tiny = (getattr(recipes_rgbd, n)() for n in (name, f"{name}_tiny"))
    task_for(full).check()
    task_for(tiny).check()
    if name == "rgbd_autoencoder":
        assert full.optim.lr == pytest.approx(4.5e-6 * full.optim.batch_size)
        assert (full.optim.betas, full.optim.weight_decay) == ((0.5, 0.9), 0.0)
        assert full.networks.perceptual == "lpips"
    else:
        assert full.optim.lr == 1e-4
        assert 0.1 <= full.loss.label_dropout <= 0.2
        assert full.autoencoder == f"{recipes_rgbd.rgbd_autoencoder().run.out}/model"
        assert tiny.autoencoder == f"{recipes_rgbd.rgbd_autoencoder_tiny().run.out}/model"
