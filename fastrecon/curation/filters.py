"""The filters of Real3D's appendix B that look at one instance alone, and the reasons to drop it.

Every filter is a function of an instance and the settings that returns a reason, a key of
`REASONS`, or "" for an instance that passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .masks import Mask

REASONS = {
    "score": "the detector is not sure enough; not taken for a neighbour either",
    "crowd": "a region of many objects; still a neighbour of others",
    "empty_mask": "the mask covers nothing",
    "size": "smaller than the least scale",
    "border": "at the picture's border, so probably cut off",
    "unknown_category": "its category_id is not among the file's categories",
    "category": "of a category on the deny list",
    "aspect": "too long and thin",
    "ambiguous": "its contact is too ragged or thin to tell the inside from the outside",
    "no_normal": "its contact has no direction, as lines one pixel wide have none",
    "no_depth": "no depth at its contact",
    "occluded": "behind a neighbour",
}
"""Why an instance is dropped, in the order in which it is looked for."""


@dataclass(frozen=True)
class FilterSettings:
    """Limits of the filters; the defaults are the paper's."""

    min_score: float = 0.3
    """Detections below are ignored altogether. The paper: 0.1 brings false ones, and every object
    that is missed spoils the occlusion test of its neighbours."""
    min_scale: float = 100.0
    """Least mean of the mask box's width and height, pixels."""
    min_margin: int = 10
    """Least distance of the mask's box from the picture's border, pixels."""
    deny: tuple[str, ...] = ("bus",)
    """Categories to drop, whatever their letter case: shapes whose depth a front view hides."""
    max_aspect: float | None = None
    """Largest ratio of the box's sides; none by default, as in the paper."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        for name, least in (("min_score", 0), ("min_scale", 1), ("min_margin", 0)):
            if not getattr(self, name) >= least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least {least}, got {getattr(self, name)}")
        if self.max_aspect is not None and not self.max_aspect >= 1:
            raise ValueError(f"--max-aspect must be at least 1, got {self.max_aspect}")


@dataclass(frozen=True, eq=False)
class Instance:
    """A detected or annotated object of a picture."""

    id: int
    category: str | None  # None: named by a number that nobody explains; "": none is given
    score: float
    crowd: bool
    mask: Mask | None  # None if it is empty


def by_score(instance: Instance, settings: FilterSettings) -> str:
    """Drop unsure detections; a score that is no number is no certainty."""
    return "" if instance.score >= settings.min_score else "score"


def by_crowd(instance: Instance, settings: FilterSettings) -> str:
    """Drop COCO's ``iscrowd`` regions."""
    return "crowd" if instance.crowd else ""


def by_mask(instance: Instance, settings: FilterSettings) -> str:
    """Drop what covers no pixel."""
    return "empty_mask" if instance.mask is None else ""


def by_size(instance: Instance, settings: FilterSettings) -> str:
    """Drop small instances (first criterion of the paper)."""
    return "size" if instance.mask and instance.mask.scale < settings.min_scale else ""


def by_border(instance: Instance, settings: FilterSettings) -> str:
    """Drop truncated instances (first criterion of the paper)."""
    return "border" if instance.mask and instance.mask.margin < settings.min_margin else ""


def by_category(instance: Instance, settings: FilterSettings) -> str:
    """Drop denied categories (second criterion of the paper)."""
    if instance.category is None:
        return "unknown_category"
    denied = {name.strip().lower() for name in settings.deny}
    return "category" if instance.category.strip().lower() in denied else ""


def by_aspect(instance: Instance, settings: FilterSettings) -> str:
    """Drop long, thin boxes."""
    if instance.mask is None or settings.max_aspect is None:
        return ""
    _, _, width, height = instance.mask.box
    return "aspect" if max(width, height) > settings.max_aspect * min(width, height) else ""


FILTERS: tuple[Callable[[Instance, FilterSettings], str], ...] = (
    by_score,
    by_crowd,
    by_mask,
    by_size,
    by_border,
    by_category,
    by_aspect,
)


def first_reason(instance: Instance, settings: FilterSettings) -> str:
    """The first filter's reason to drop an instance, or ""."""
    return next((reason for f in FILTERS if (reason := f(instance, settings))), "")
