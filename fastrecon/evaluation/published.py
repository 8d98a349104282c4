"""Published figures, to be read beside ours on the same data set.

They were measured by their authors, on choices of objects and views that are not published with
them: near figures are comparable in kind, not to the last digit.
"""

from __future__ import annotations

from typing import NamedTuple

REAL3D = "Real3D (Jiang et al. 2024)"
CO3D, MVIMGNET, OMNIOBJECT3D = "co3d", "mvimgnet", "omniobject3d"


class Published(NamedTuple):
    """One figure."""

    method: str
    metric: str
    """"psnr" (dB), "ssim", "perceptual" (LPIPS) or "chamfer_scaled" (longest side 2)."""
    value: float
    data_set: str
    source: str


def _row(method: str, psnr: float, ssim: float, lpips: float, where: str) -> list[Published]:
    values = {"psnr": psnr, "ssim": ssim, "perceptual": lpips}
    return [Published(method, m, v, CO3D, f"{REAL3D}, {where}") for m, v in values.items()]


def _chamfer(method: str, value: float) -> Published:
    where = "section 5.1, whose text does not name the set; of the four only this one has meshes"
    return Published(method, "chamfer_scaled", value, OMNIOBJECT3D, f"{REAL3D}, {where}")


def _ablation(method: str, value: float) -> Published:
    where = "the ablation on CO3D, as its public reviews quote it"
    return Published(method, "psnr", value, CO3D, f"{REAL3D}, {where}")


FIGURES: tuple[Published, ...] = (
    *_row("LGM", 15.14, 0.802, 0.187, "Table 3"),
    *_row("CRM", 16.38, 0.840, 0.153, "Table 3"),
    *_row("InstantMesh", 13.99, 0.789, 0.199, "Table 3"),
    _ablation("TripoSR, fine-tuned", 18.44),
    _ablation("+ L_in on clean photographs", 18.60),
    _ablation("+ L_sem", 18.81),
    _ablation("+ L_pix with curriculum", 19.18),
    _chamfer("InstantMesh", 0.395),
    _chamfer("TripoSR, fine-tuned", 0.321),
    _chamfer("Real3D", 0.275),
)
GAINS = {"psnr": "+0.74 dB", "perceptual": "-6.3%"}
"""Of Real3D over fine-tuned TripoSR, the mean of its four sets (section 5.1)."""


def known_set(path: str, layout: str = "") -> str:
    """The data set behind a path: from its layout, or its name in the path; "" if unknown."""
    if layout in (CO3D, MVIMGNET):
        return layout
    folded = path.lower()
    return next((name for name in (CO3D, MVIMGNET, OMNIOBJECT3D) if name in folded), "")


def published(data_set: str, metrics: tuple[str, ...]) -> list[Published]:
    """Figures of a data set in these metrics."""
    return [f for f in FIGURES if f.data_set == data_set and f.metric in metrics]
