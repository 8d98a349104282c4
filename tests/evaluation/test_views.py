"""Pictures judged: equal to hand-computed values, failures listed, distances searched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastrecon.data.posed import open_collection
from fastrecon.evaluation import views as module
from fastrecon.evaluation.cycles import InputCamera
from fastrecon.evaluation.instances import Instance, PosedSet
from fastrecon.evaluation.judges import Judges
from fastrecon.evaluation.protocol import EvaluationError
from fastrecon.evaluation.subjects import Skipped
from fastrecon.evaluation.view_sheets import view_sheet
from fastrecon.evaluation.views import (
    AROUND,
    BOTH,
    CYCLE,
    INPUT,
    NOVEL,
    SEARCH_SIZE,
    Parts,
    evaluate_views,
    search_distance,
)
from fastrecon.models.lrm import LRM
from tests.evaluation.made_views import ring, write_object
from tests.micro import micro_config

CAMERA = InputCamera(1.9, 40.0)


def model(**overrides: object) -> LRM:
    torch.manual_seed(0)
    return LRM(micro_config(**overrides)).eval()


def instance(name: str = "grey", level: float = 0.5, views: int = 3) -> Instance:
    """An opaque picture of one level, from everywhere."""
    return Instance(
        name=name,
        picture=torch.full((4, 16, 16), level),
        truth=torch.full((views, 3, 8, 8), level),
        c2w=torch.cat([CAMERA.canonical[None], ring(views, 1.9)[1:]]),
        fov_deg=torch.full((views,), 40.0),
        fill=1.0,
    )


@dataclass
class Given:
    """A set of given instances."""

    instances: list[Instance]
    key: str = "given"
    title: str = "Given"
    description: str = "given instances"
    data_set: str = ""
    skipped: list[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.instances) + len(self.skipped)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances)


def flat(lrm: LRM, planes: Tensor, c2w: Tensor, fov_deg: Tensor, size: int) -> Tensor:
    """Stands in for rendering: the k-th picture is opaque, of the level 0.6 + 0.1 k."""
    levels = 0.6 + 0.1 * torch.arange(len(c2w))
    colour = levels[:, None, None, None].expand(-1, 3, size, size)
    return torch.cat([colour, torch.ones(len(c2w), 1, size, size)], 1)


def test_psnr_of_flat_pictures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "render_views", flat)
    result = evaluate_views(model(), Given([instance(), instance("other", 0.6)]), CAMERA, Judges(),
                            Parts())  # fmt: skip
    assert result.groups == [NOVEL, INPUT, BOTH]
    # levels 0.6, 0.7, 0.8 against 0.5: errors 0.1 at the input, 0.2 and 0.3 at novel views
    found = result.measured[0].groups
    assert found[INPUT]["psnr"].tolist() == pytest.approx([20.0], abs=1e-4)
    expected = [-20 * math.log10(0.2), -20 * math.log10(0.3)]
    assert found[NOVEL]["psnr"].tolist() == pytest.approx(expected, abs=1e-4)
    assert found[BOTH]["psnr"].tolist() == pytest.approx([20.0, *expected], abs=1e-4)
    # flat pictures a and b: SSIM is (2ab + c1) / (a^2 + b^2 + c1)
    c1 = 1e-4
    assert found[INPUT]["ssim"].tolist() == pytest.approx([(0.6 + c1) / (0.61 + c1)], abs=1e-6)
    novel = result.estimate(NOVEL, "psnr")
    assert novel is not None
    other = [20.0, -20 * math.log10(0.2)]
    assert novel.mean == pytest.approx(sum(expected + other) / 4, abs=1e-4)
    assert (novel.count, novel.objects) == (4, 2)
    assert result.values(NOVEL, "perceptual") is None


def test_instances_with_fewer_views_weigh_less() -> None:
    result = evaluate_views(
        model(), Given([instance(views=4), instance("few", views=2)]), CAMERA, Judges(), Parts()
    )
    values = result.values(NOVEL, "psnr")
    assert values is not None
    assert values.shape == (2, 3)
    assert values.isnan().sum() == 2
    found = result.estimate(NOVEL, "psnr")
    assert found is not None
    assert (found.count, found.objects) == (4, 2)
    assert found.mean == pytest.approx(float(values.nanmean()), abs=1e-5)


def test_pictures_are_kept_of_the_first_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURED", 1)
    monkeypatch.setattr(module, "render_views", flat)
    some = Given([instance(), instance("other")])
    result = evaluate_views(model(), some, CAMERA, Judges(), Parts())
    assert [bool(one.thumbnails) for one in result.measured] == [True, False]
    assert view_sheet(result).shape[1] > 0


def test_meaning_and_cycle() -> None:
    judges = Judges(
        perceptual=lambda x, y: (x - y).abs().mean((1, 2, 3)),
        clip=lambda x: torch.nn.functional.normalize(x.flatten(1), dim=1),
        inception=lambda x: x.mean((2, 3)),
    )
    some = Given([instance(views=1), instance("dark", 0.2, views=1)])
    result = evaluate_views(model(), some, CAMERA, judges, Parts(True, True))
    assert result.groups == [INPUT, AROUND, CYCLE]
    shapes = {g: {m: v.shape for m, v in x.items()} for g, x in result.measured[0].groups.items()}
    assert shapes[AROUND] == {"perceptual": (7,), "clip": (7,)}
    assert shapes[CYCLE] == {"psnr": (13,), "ssim": (13,), "perceptual": (13,)}
    assert result.fid is not None
    assert (result.fid.pictures, result.fid.references) == (14, 2)
    # the first view around is the input view
    one = result.measured[0].groups
    assert one[AROUND]["perceptual"][0] == pytest.approx(float(one[INPUT]["perceptual"][0]))
    assert evaluate_views(model(), some, CAMERA, judges, Parts()).fid is None


def test_one_failure_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = module.encode_picture

    def failing(lrm: LRM, picture: Tensor, camera: InputCamera) -> Tensor:
        planes = encode(lrm, picture, camera)
        return planes * torch.nan if float(picture.max()) < 0.4 else planes

    monkeypatch.setattr(module, "encode_picture", failing)
    some = Given([instance("dark", 0.2), instance()], skipped=[Skipped("torn", "it is torn")])
    result = evaluate_views(model(), some, CAMERA, Judges(), Parts())
    assert [one.name for one in result.measured] == ["grey"]
    assert [skipped.name for skipped in result.skipped] == ["torn", "dark"]
    assert "not finite" in result.skipped[1].reason
    with pytest.raises(EvaluationError, match=r"none of the 1 objects.*dark: .*not finite"):
        evaluate_views(model(), Given([instance("dark", 0.2)]), CAMERA, Judges(), Parts())


def test_the_search_finds_the_distance_that_the_pictures_were_made_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_object(tmp_path / "a", 4)
    best = 1.9 * 1.15
    instances = PosedSet(open_collection(tmp_path), str(tmp_path), CAMERA, 16, 24)
    (seen,) = replace(instances, size=SEARCH_SIZE)

    def darker(lrm: LRM, planes: Tensor, c2w: Tensor, fov: Tensor, size: int) -> Tensor:
        """The truth, the darker the farther from the best distance."""
        off = (c2w[:, :3, 3].norm(dim=-1) - best).abs().clamp(max=1.0)[:, None, None, None]
        return torch.cat([seen.truth[1:] * (1 - off), torch.ones(len(c2w), 1, size, size)], 1)

    monkeypatch.setattr(module, "render_views", darker)
    search = search_distance(model(), instances)
    assert search.best == pytest.approx(best)
    assert len(search.distances) == len(search.psnr) == 13
    assert search.psnr[search.distances.index(search.best)] == max(search.psnr)
    assert instances.size == 24
    (tmp_path / "a" / "000.png").write_bytes(b"torn")
    with pytest.raises(EvaluationError, match="no object could be used to search; the first, a"):
        search_distance(model(), instances)
