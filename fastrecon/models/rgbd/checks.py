"""What the RGB-D models refuse: sizes that do not go together."""

from __future__ import annotations

from fastrecon.config.rgbd import AutoencoderConfig, DenoiserConfig, DiffusionConfig, TextConfig

CHOICES = {"kind": ("unet", "dit"), "conditioning": ("class", "text")}
MAX_TABLE = 1 << 28
"""Values of the DiT's largest position table: sizes beyond are damage, and would fill memory."""


def check_autoencoder_config(config: AutoencoderConfig) -> None:
    """Refuse sizes that do not go together, naming the field."""
    _positive(config, "size", "layers", "groups", "latent_channels", "critic_layers")
    _stages("widths", config.widths, config.groups)
    if config.critic_width < 0:
        raise ValueError(f"critic_width must not be negative, got {config.critic_width}")
    if config.size % config.factor:
        raise ValueError(
            f"size = {config.size} is halved {len(config.widths) - 1} times (widths = "
            f"{config.widths}), so it must be a multiple of {config.factor}"
        )
    if config.critic_width and config.size < 2 ** (config.critic_layers + 2):
        raise ValueError(
            f"size = {config.size} is too small for critic_layers = {config.critic_layers}, which "
            f"need {2 ** (config.critic_layers + 2)} pixels; use fewer"
        )


def check_diffusion_config(config: DiffusionConfig) -> None:
    """Refuse sizes that do not go together, naming the field."""
    check_autoencoder_config(config.autoencoder)
    denoiser, text = config.denoiser, config.text
    for name, choices in CHOICES.items():
        if getattr(denoiser, name) not in choices:
            expected = " or ".join(map(repr, choices))
            raise ValueError(f"denoiser.{name} must be {expected}, got {getattr(denoiser, name)!r}")
    _positive(denoiser, "head_dim", "layers", "groups", "depth", "heads", "patch")
    latent = config.autoencoder.latent_size
    if denoiser.kind == "dit":
        if denoiser.conditioning == "text":
            raise ValueError(
                "denoiser.kind 'dit' knows classes only; take 'unet' for conditioning 'text'"
            )
        _dit(denoiser, latent)
    else:
        _unet(denoiser, latent)
    if denoiser.conditioning == "text":
        _text(text)
    if not config.classes or len(set(config.classes)) != len(config.classes):
        raise ValueError(
            f"classes must be one or more different names, got {len(config.classes)} of which "
            f"{len(set(config.classes))} differ"
        )
    _schedule(config)


def _schedule(config: DiffusionConfig) -> None:
    first, last = config.betas if len(config.betas) == 2 else (0.0, 0.0)
    if not 0 < first <= last < 1:
        raise ValueError(f"betas must be two numbers, 0 < first <= last < 1, got {config.betas}")
    if not 2 <= config.noise_steps <= 100_000:
        raise ValueError(f"noise_steps must lie in [2, 100000], got {config.noise_steps}")
    check_sampling(config, config.guidance, config.sampling_steps)


def check_sampling(config: DiffusionConfig, guidance: float, steps: int) -> None:
    """Refuse what cannot be sampled with."""
    if not 0 <= guidance < float("inf"):
        raise ValueError(f"guidance must be a number of at least 0 (1: none), got {guidance}")
    if not 1 <= steps <= config.noise_steps:
        raise ValueError(
            f"steps must lie between 1 and the {config.noise_steps} of training, got {steps}"
        )


def _unet(denoiser: DenoiserConfig, latent: int) -> None:
    _stages("denoiser.widths", denoiser.widths, denoiser.groups)
    for width in denoiser.widths:
        if width % denoiser.head_dim:
            raise ValueError(
                f"denoiser.widths must be multiples of denoiser.head_dim = {denoiser.head_dim}, "
                f"got {denoiser.widths}"
            )
    halved = 2 ** (len(denoiser.widths) - 1)
    if latent % halved:
        raise ValueError(
            f"latents of side {latent} are halved {len(denoiser.widths) - 1} times (denoiser.widths"
            f" = {denoiser.widths}), so their side must be a multiple of {halved}"
        )


def _dit(denoiser: DenoiserConfig, latent: int) -> None:
    if latent % denoiser.patch:
        raise ValueError(
            f"latents of side {latent} must be a multiple of denoiser.patch = {denoiser.patch}"
        )
    width = denoiser.heads * denoiser.head_dim
    if width % 4 or width * (latent // denoiser.patch) ** 2 > MAX_TABLE:
        raise ValueError(
            f"denoiser.heads * denoiser.head_dim must be a multiple of 4 and fit {latent} x "
            f"{latent} latents, got {width}"
        )


def _text(text: TextConfig) -> None:
    _positive(text, "width", "layers", "heads", "context", "vocabulary")
    if text.width % text.heads:
        raise ValueError(
            f"text.width = {text.width} must be a multiple of text.heads = {text.heads}"
        )
    if not 3 <= text.context <= 4096:
        raise ValueError(f"text.context must lie in [3, 4096], got {text.context}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def _stages(name: str, widths: tuple[int, ...], groups: int) -> None:
    if not widths or len(widths) > 8 or min(widths) < 1 or any(w % groups for w in widths):
        raise ValueError(
            f"{name} must be one to eight multiples of the {groups} groups, got {widths}"
        )
