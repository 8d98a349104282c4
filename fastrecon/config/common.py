"""What every kind of run is configured by: judges, the optimizer, where and how often to write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworksConfig:
    """Frozen networks that judge pictures; their weights are found at run time."""

    perceptual: str = "none"
    """"lpips" (VGG-16), "ssim" (L1 + 1 - SSIM, needs no weights) or "none"."""
    lpips_weights: str = ""
    """VGG-16 backbone for LPIPS, a file; if empty, torchvision's, downloaded once."""
    clip_weights: str = ""
    """CLIP ViT-B/16 weights, a file; if empty, OpenAI's through open_clip, downloaded once."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule."""

    kind: str = "adamw"
    """"adamw", or "muon" (Muon for the networks' matrices): twice the progress of a step for small
    models trained from nothing, see bench/NOTES.md."""
    steps: int = 1000
    batch_size: int = 8
    lr: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.96)
    eps: float = 1e-6
    weight_decay: float = 0.05
    """Not applied to biases, norms and tables."""
    warmup: int = 100
    start_lr: float = 0.0
    """Learning rate before the warm-up, as a fraction of ``lr``."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine, as a fraction of ``lr``."""
    clip: float = 1.0
    ema: float = 0.999
    """Decay of the weight average used for validation and export; 0 turns it off."""
    precision: str = "bf16"
    """Autocast of the network: "bf16" or "fp32". Rendering stays in its own precision."""


@dataclass(frozen=True)
class RunConfig:
    """Where and how often to write."""

    out: str = "runs/default"
    seed: int = 0
    device: str = "auto"
    log_every: int = 20
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    """Checkpoints kept; the newest is never deleted before the next one is complete."""
    keep_best: bool = False
    """Also keep the weights that did best on the held-out views, in ``out/best``."""
    validation_objects: int = 64
    validation_views: int = 8
    validation_size: int = 64
    """Side of the held-out pictures that are rendered and compared, in pixels."""
    init: str = ""
    """Start from these weights instead of random ones: a folder, file or hub id as
    ``LRM.from_pretrained`` reads it (fine-tuning)."""
    data_workers: int = 0
    """Processes that make batches ahead; 0 makes them in a thread."""
    resume: bool = True
    """Continue from the newest whole checkpoint in ``out`` if there is one."""
