"""Do the configurations of f_rgb's two trainings make sense?"""

from __future__ import annotations

from dataclasses import asdict

from .checks import optim_faults, run_faults
from .g3dr import RGBDDataConfig
from .rgbd import RGBDAutoencoderConfig, RGBDDiffusionConfig


def check_autoencoder_run(cfg: RGBDAutoencoderConfig) -> None:
    """Raise ``ValueError`` naming every field whose value cannot be trained with.

    Sizes inside the network are checked by the model itself.
    """
    loss = cfg.loss
    faults = [*optim_faults(cfg.optim), *run_faults(cfg.run), *_data_faults(cfg.data)]
    for name, value in asdict(loss).items():
        if not value >= 0:
            faults.append(f"loss.{name} must not be negative, got {value}")
    if not (loss.rgb and loss.depth):
        faults.append(
            "loss.rgb and loss.depth must be positive: without one, half of a picture is not "
            f"learnt; got {loss.rgb} and {loss.depth}"
        )
    if loss.perceptual and cfg.networks.perceptual not in ("lpips", "ssim"):
        faults.append(
            f"loss.perceptual has a weight but networks.perceptual is {cfg.networks.perceptual!r}: "
            'choose "lpips", or "ssim", which needs no weights'
        )
    if loss.adversarial and not cfg.model.critic_width:
        faults.append(
            "loss.adversarial needs a critic: set model.critic_width, or loss.adversarial 0"
        )
    _refuse(faults)


def check_diffusion_run(cfg: RGBDDiffusionConfig) -> None:
    """Raise ``ValueError`` naming every field whose value cannot be trained with."""
    faults = [*optim_faults(cfg.optim), *run_faults(cfg.run), *_data_faults(cfg.data)]
    if not 0 <= cfg.loss.label_dropout < 1:
        faults.append(f"loss.label_dropout must lie in [0, 1), got {cfg.loss.label_dropout}")
    if not cfg.autoencoder and not cfg.run.init:
        faults.append(
            "autoencoder names no weights: train one (fastrecon train rgbd_autoencoder) and pass "
            "--autoencoder FOLDER"
        )
    if cfg.class_names and not cfg.data.path:
        faults.append("class_names belong to the folders of data.path, which is empty")
    _refuse(faults)


def _data_faults(data: RGBDDataConfig) -> list[str]:
    faults = []
    if not 0 <= data.flip <= 1:
        faults.append(f"data.flip must lie in [0, 1], got {data.flip}")
    if data.max_parts < 1:
        faults.append(f"data.max_parts must be at least 1, got {data.max_parts}")
    if data.scenes < 0:
        faults.append(f"data.scenes must be at least 0, got {data.scenes}")
    return faults


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("this configuration cannot be trained:\n  " + "\n  ".join(faults))
