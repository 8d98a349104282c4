"""Reports on pictures: tables, JSON, what is missing, published figures, sheets."""

from __future__ import annotations

import json

import pytest
import torch

from fastrecon.evaluation.cycles import InputCamera
from fastrecon.evaluation.fid import Fid
from fastrecon.evaluation.published import FIGURES, known_set, published
from fastrecon.evaluation.subjects import Skipped
from fastrecon.evaluation.tables import published_table
from fastrecon.evaluation.view_report import view_markdown, view_summary
from fastrecon.evaluation.view_sheets import view_sheet
from fastrecon.evaluation.views import (
    AROUND,
    BOTH,
    CYCLE,
    INPUT,
    NOVEL,
    THUMBNAIL,
    Measured,
    Search,
    ViewResult,
)


def measured(name: str, level: float, posed: bool = True) -> Measured:
    """An input view at 20 dB, two novel ones at ``level`` dB."""
    first, novel = torch.tensor([20.0]), torch.full((2,), level)
    groups = {INPUT: {"psnr": first, "ssim": first / 100, "perceptual": first / 200}}
    if posed:
        groups[NOVEL] = {"psnr": novel, "ssim": novel / 100, "perceptual": novel / 200}
        groups[BOTH] = {"psnr": torch.cat([first, novel])}
    groups[AROUND] = {"clip": torch.full((7,), 0.5)}
    groups[CYCLE] = {"psnr": 10 + torch.arange(13.0)}
    shown = {"input": 1, "truth": 2, "model": 3, "around": 7, "there and back": 13}
    return Measured(
        name,
        groups,
        {
            row: torch.full((n, 3, THUMBNAIL, THUMBNAIL), 15 * n, dtype=torch.uint8)
            for row, n in shown.items()
            if posed or row != "truth"
        },
        fill=0.5,
    )


def result(data_set: str = "", posed: bool = True) -> ViewResult:
    return ViewResult(
        key="posed",
        title="Posed pictures",
        description="all 2 objects of a folder",
        data_set=data_set,
        camera=InputCamera(1.9, 40.0),
        measured=[measured("a", 10.0, posed), measured("b", 14.0, posed)],
        skipped=[Skipped("c", "it is torn")],
        absent={"FID": "there is no network"},
    )


def rows(text: str) -> dict[str, list[str]]:
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if row}


def test_tables_hold_the_figures() -> None:
    text = view_markdown(result(), 224, 0.6)
    found = rows(text)
    assert found["pictures judged"] == [
        "number", "PSNR, dB", "SSIM", "LPIPS (VGG-16)", "CLIP similarity",
    ]  # fmt: skip
    assert found["novel views"][:2] == ["4", "12.00 [10.00, 14.00]"]
    assert found["input view"] == [
        "2", "20.00 [20.00, 20.00]", "0.200 [0.200, 0.200]", "0.100 [0.100, 0.100]", "-",
    ]  # fmt: skip
    assert found["7 views around, against the input"][-1] == "0.500 [0.500, 0.500]"
    assert found["the input again, by way of 13 views"][:2] == ["26", "16.00 [16.00, 16.00]"]
    assert "All 2 objects of a folder. Pictures of 224 x 224 pixels on white" in text
    assert "1 objects could not be used" in text
    assert "Not computed: FID, because there is no network." in text
    assert "--crop" not in text  # 0.5 is near enough to 0.6
    assert "published" not in text


def test_pictures_of_another_size_than_expected_are_told() -> None:
    assert "Objects fill 0.50" in view_markdown(result(), 224, 0.85)
    assert "--crop 1.18" in view_markdown(result(), 224, 0.85)
    assert "--crop" not in view_markdown(result(posed=False), 224, 0.85)


def test_a_searched_distance_is_told_as_such() -> None:
    one = result()
    one.search = Search([1.8, 1.9], [12.5, 12.0], 1.8)
    text = view_markdown(one, 224, 0.6)
    assert "1.8, was chosen on these very pictures" in text
    assert "1.8: 12.50, 1.9: 12.00" in text
    assert view_summary(one)["distance_search"]["best"] == 1.8


def test_fid_is_named_with_its_pictures() -> None:
    one = result()
    one.fid = Fid(12.345, 700, 100)
    assert "FID (700 pictures around against 100 input pictures): 12.35" in view_markdown(
        one, 224, 0.6
    )


def test_the_perceptual_column_says_which_it_is() -> None:
    one = result()
    one.perceptual_name = "L1 + 1 - SSIM"
    head = rows(view_markdown(one, 224, 0.6))["pictures judged"]
    assert "L1 + 1 - SSIM" in head
    assert "LPIPS (VGG-16)" not in head


def test_published_figures_stand_beside_their_own_set_alone() -> None:
    text = view_markdown(result("co3d"), 224, 0.6)
    assert rows(text)["CRM"][:3] == ["16.38", "0.840", "0.153"]
    assert rows(text)["+ L_pix with curriculum"][:3] == ["19.18", "-", "-"]
    assert "PSNR +0.74 dB" in text
    assert "published" not in view_markdown(result("omniobject3d"), 224, 0.6)  # Chamfer only
    assert "published" not in view_markdown(result("co3d", posed=False), 224, 0.6)
    chamfer = rows(published_table("omniobject3d", ("chamfer_scaled",)))
    assert chamfer["Real3D"][0] == "0.275"
    assert published("", ("psnr",)) == []
    assert all(figure.source.startswith("Real3D") for figure in FIGURES)


@pytest.mark.parametrize(
    ("path", "layout", "expected"),
    [
        ("anything", "co3d", "co3d"),
        ("anything", "mvimgnet", "mvimgnet"),
        ("data/OmniObject3D/renders", "nerf", "omniobject3d"),
        ("data/co3d-shards", "shards", "co3d"),
        ("renders", "nerf", ""),
    ],
)
def test_sets_are_known_by_layout_or_name(path: str, layout: str, expected: str) -> None:
    assert known_set(path, layout) == expected


def test_the_summary_is_json_with_every_object() -> None:
    content = json.loads(json.dumps(view_summary(result("co3d")), allow_nan=False))
    assert content["groups"][NOVEL]["psnr"]["mean"] == pytest.approx(12.0)
    cameras = content["groups"][CYCLE]["cameras"]
    assert len(cameras) == 13
    assert cameras[9] == {"azimuth": 30, "elevation": 60, "psnr": 19.0}
    assert content["per_object"][1]["groups"][NOVEL]["psnr"] == [14.0, 14.0]
    assert content["not_computed"] == {"FID": "there is no network"}
    assert content["skipped"] == [{"name": "c", "reason": "it is torn"}]


def test_sheets_have_a_row_for_every_kind_of_picture() -> None:
    found = view_sheet(result())
    for count in (1, 2, 3, 7, 13):
        assert (found == 15 * count).all(-1).any()
    assert view_sheet(result(posed=False)).shape[0] < found.shape[0]
    # the truth stands over the model's picture of the same view: not over the first
    truth = (found == 30).all(-1).sum(0) > THUMBNAIL
    model = (found == 45).all(-1).sum(0) > THUMBNAIL
    assert truth.argmax() == model.argmax() + THUMBNAIL + 4
