"""CLIP's image encoder (Radford et al. 2021): ViT-B/16 with OpenAI's weights, frozen.

The transformer is open_clip's. OpenAI trained with QuickGELU, ``x sigmoid(1.702 x)``; with GELU the
same weights give other features without any error, so the activation is fixed here.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworksConfig
from .libraries import import_open_clip
from .pictures import check_pictures, to_side
from .weights import WeightsError, read_tensors, take

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
OPENAI_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
"""Of OpenAI's ViT-B-16.pt, which also stands in the address that it is published at."""
ADVICE = (
    "CLIP needs OpenAI's ViT-B/16 weights: fetch open_clip_model.safetensors from "
    "https://huggingface.co/timm/vit_base_patch16_clip_224.openai (or OpenAI's own ViT-B-16.pt) "
    "and pass --networks.clip-weights FILE; --self-training.semantic 0 needs no weights"
)
PREFIX = "visual."


@dataclass(frozen=True)
class TowerSize:
    """Sizes of CLIP's vision transformer; the defaults are ViT-B/16."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    features: int = 512


class ClipEncoder(nn.Module):
    """Pictures to CLIP's unit features; frozen, always in evaluation mode.

    Under autocast the transformer runs in the autocast's dtype; resizing and the features' length
    are fp32.

    Args:
        tower: normalised pictures (N, 3, S, S) to features (N, D).
        image_size: S, pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, image_size: int) -> None:
        super().__init__()
        self.tower, self.image_size = tower, image_size
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> ClipEncoder:
        """A judge does not learn: evaluation mode, whatever is asked."""
        return super().train(False)

    def embed(self, pictures: Tensor) -> Tensor:
        """Features (N, D) in fp32 as the network gives them, differentiable in the pictures.

        Args:
            pictures: (N, 3, H, H) in [0, 1], square. Resized bilinear (antialiased where they
                shrink) to the network's 224.
        """
        check_pictures(pictures)
        resized = to_side(pictures.float(), self.image_size)
        return self.tower((resized - self.mean) / self.std).float()

    def forward(self, pictures: Tensor) -> Tensor:
        """Unit features (N, D), see `embed`; Real3D shows the object on white."""
        return F.normalize(self.embed(pictures), dim=-1)


def load_clip(
    networks: NetworksConfig, device: torch.device | str, *, size: TowerSize | None = None
) -> ClipEncoder:
    """The encoder with the weights in ``networks.clip_weights``, else OpenAI's through open_clip.

    A file is one of: safetensors, or a pickled state dict, with open_clip's or OpenAI's names
    (``visual.*``; text weights are not read); OpenAI's archive ViT-B-16.pt itself, known by its
    SHA-256, because opening any other archive of that kind would run what is in it.

    Args:
        size: of another CLIP vision tower with QuickGELU; None: ViT-B/16.

    Raises:
        WeightsError: the weights are missing, damaged, another network's, or cannot be fetched.
        ImportError: open_clip is not installed; the message names the extra.
    """
    size = size or TowerSize()
    tower = _empty_tower(size)
    path, tensors = read_clip(networks)
    shapes = {PREFIX + name: t.shape for name, t in tower.state_dict().items()}
    unknown = [n for n in tensors if n.startswith(PREFIX) and n not in shapes]
    if unknown:
        raise WeightsError(
            f"{path} holds another image encoder than ViT-B/16: it has {unknown[0]} and "
            f"{len(unknown) - 1} other tensors too many. {ADVICE}"
        )
    state = take(tensors, shapes, f"{path} (CLIP's image encoder)", ADVICE)
    tower.load_state_dict({n.removeprefix(PREFIX): t for n, t in state.items()}, assign=True)
    return ClipEncoder(tower, size.image_size).to(device)


def read_clip(networks: NetworksConfig) -> tuple[Path, dict[str, Tensor]]:
    """The file of weights that `load_clip` describes, and everything in it, text weights too.

    Raises:
        WeightsError: the weights are missing, damaged, or cannot be fetched.
        ImportError: open_clip is not installed.
    """
    path = Path(networks.clip_weights) if networks.clip_weights else _fetch()
    return path, _read_archive(path) if _is_archive(path) else read_tensors(path, ADVICE)


def _empty_tower(size: TowerSize) -> nn.Module:
    """The network without values: whatever the file does not fill cannot be used by mistake."""
    import_open_clip()
    from open_clip.transformer import (  # type: ignore[import-not-found]
        QuickGELU,
        VisionTransformer,
    )

    with torch.device("meta"):
        return VisionTransformer(
            image_size=size.image_size,
            patch_size=size.patch_size,
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            mlp_ratio=4.0,
            output_dim=size.features,
            act_layer=QuickGELU,
        )


def _is_archive(path: Path) -> bool:
    """Whether this is a TorchScript archive: code and tensors in one zip file."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False  # the reader of state dicts will say what is wrong


def _read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of OpenAI's archive, and of no other."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    checksum = digest.hexdigest()
    if checksum != OPENAI_SHA256:
        raise WeightsError(
            f"{path} is a TorchScript archive but not OpenAI's ViT-B-16.pt (SHA-256 "
            f"{checksum[:12]}..., not {OPENAI_SHA256[:12]}...); it is not opened, because that can "
            f"run code. {ADVICE}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to retire the format, not the file
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except Exception as error:  # whatever a torch without TorchScript will raise
        raise WeightsError(
            f"this torch ({torch.__version__}) cannot open {path} ({error}). {ADVICE}"
        ) from error


def _fetch() -> Path:
    """OpenAI's weights in open_clip's usual cache, downloaded if they are not there."""
    open_clip = import_open_clip()
    published = open_clip.get_pretrained_cfg("ViT-B-16", "openai")
    try:
        return Path(open_clip.download_pretrained(published))
    # The network's failures come from several libraries; all mean that nothing was fetched.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"CLIP's weights could not be downloaded ({reason}). {ADVICE}"
        ) from error
