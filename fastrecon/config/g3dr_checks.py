"""Does a ``G3DRConfig`` make sense?"""

from __future__ import annotations

from dataclasses import asdict

from .checks import optim_faults, run_faults
from .g3dr import G3DRConfig


def check_g3dr_config(cfg: G3DRConfig) -> None:
    """Raise ``ValueError`` naming every field whose value cannot be trained with.

    Sizes inside the network are checked by the model itself.
    """
    loss, camera, data = cfg.loss, cfg.model.camera, cfg.data
    faults = [*optim_faults(cfg.optim), *run_faults(cfg.run)]
    for name, value in asdict(loss).items():
        if not value >= 0:
            faults.append(f"loss.{name} must not be negative, got {value}")
    for name in ("novel", "around_depth", "perceptual_from"):
        if not 0 <= getattr(loss, name) <= 1:
            faults.append(f"loss.{name} must lie in [0, 1], got {getattr(loss, name)}")
    if not (loss.rgb or loss.depth):
        faults.append("loss.rgb and loss.depth are both 0, so nothing is learnt from the input")
    if cfg.networks.perceptual not in ("lpips", "ssim", "none"):
        faults.append(
            f'networks.perceptual must be "lpips", "ssim" or "none", got '
            f"{cfg.networks.perceptual!r}"
        )
    elif loss.perceptual and cfg.networks.perceptual == "none":
        faults.append(
            'loss.perceptual has a weight but networks.perceptual is "none": choose "lpips", or '
            '"ssim", which needs no weights'
        )
    if loss.deep and cfg.networks.perceptual != "lpips":
        faults.append(
            "loss.deep compares LPIPS features of different views: it needs networks.perceptual "
            '"lpips"; set loss.deep 0 without'
        )
    if not 0 <= data.flip <= 1:
        faults.append(f"data.flip must lie in [0, 1], got {data.flip}")
    if data.max_parts < 1:
        faults.append(f"data.max_parts must be at least 1, got {data.max_parts}")
    if data.scenes < 0:
        faults.append(f"data.scenes must be at least 0, got {data.scenes}")
    near, far = camera.depth_range
    if not 0 <= near < far:
        faults.append(f"model.camera.depth_range must be 0 <= near < far, got {camera.depth_range}")
    if not camera.radius > cfg.model.render.radius:
        faults.append(
            f"model.camera.radius ({camera.radius}) must exceed model.render.radius "
            f"({cfg.model.render.radius}): the camera stands outside the box"
        )
    if not min(camera.yaw_den) > 0:
        faults.append(f"model.camera.yaw_den must be positive, got {camera.yaw_den}")
    if not 0 < camera.fov_deg < 180:
        faults.append(f"model.camera.fov_deg must lie between 0 and 180, got {camera.fov_deg}")
    if not 0 <= camera.pitch_deg <= 90:
        faults.append(f"model.camera.pitch_deg must lie in [0, 90], got {camera.pitch_deg}")
    if faults:
        raise ValueError("this configuration cannot be trained:\n  " + "\n  ".join(faults))
