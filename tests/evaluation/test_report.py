"""Reports: tables, JSON, pictures, and their place in an existing file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from fastrecon.evaluation.figures import curve, groups, plot, ranked, sheet
from fastrecon.evaluation.geometry import ShapeScores
from fastrecon.evaluation.protocol import Method, Outcome, SetResult, ShapeSettings
from fastrecon.evaluation.report import (
    BEGIN,
    END,
    conditions,
    insert,
    markdown,
    summary,
    table,
    tensors_hash,
)
from fastrecon.evaluation.subjects import Skipped
from fastrecon.models.lrm import LRM
from tests.micro import micro_config


def outcome(name: str, gain: float, has_surface: bool = True) -> Outcome:
    """Mean image 10 dB, extrusion 12 dB, model 10 dB + gain; a near and a far view."""
    level: dict[Method, float] = {"model": 10 + gain, "mean image": 10.0, "extrusion": 12.0}
    near = ShapeScores(0.1, 0.2, 0.5)
    return Outcome(
        name=name,
        image=torch.full((3, 8, 8), 0.5),
        angles=torch.tensor([20.0, 170.0]),
        pictures={
            m: torch.zeros(2, 3, 8, 8, dtype=torch.uint8) for m in ("truth", "model", "extrusion")
        },
        psnr={m: torch.full((2,), v) for m, v in level.items()},
        ssim={m: torch.full((2,), v / 100) for m, v in level.items()},
        shape={
            "model": near if has_surface else None,
            "extrusion": ShapeScores(0.3, 0.6, 0.25),
            "truth": ShapeScores(0.01, 0.02, 1.0),
        },
    )


def made_up(*gains: float) -> SetResult:
    outcomes = [outcome(f"object-{i}", gain) for i, gain in enumerate(gains)]
    return SetResult("made", "Made up", "a few objects", outcomes, [Skipped("x", "it is torn")])


MADE = {
    "weights": {"parameters": 5.4e6, "tensors_sha256": "abc", "files_sha256": {}},
    "versions": {"fastrecon": "1.2", "torch": "2.13"},
    "machine": {"device": "cpu"},
    "command": "fastrecon evaluate",
}


def test_tables_hold_the_figures() -> None:
    text = markdown([made_up(4.0, 4.0, 4.0)], MADE, ShapeSettings(), 64)
    lines = {
        tuple(cell.strip() for cell in line.split("|")[1:-1])
        for line in text.splitlines()
        if line.startswith("| ")
    }
    assert (
        "all",
        "6",
        "10.00 [10.00, 10.00]",
        "12.00 [12.00, 12.00]",
        "14.00 [14.00, 14.00]",
        "+4.00 [+4.00, +4.00]",
        "+2.00 [+2.00, +2.00]",
    ) in lines
    interval = "[{0}, {0}]".format
    assert (
        "model minus extrusion",
        f"-0.200 {interval('-0.200')}",
        f"-0.400 {interval('-0.400')}",
        f"+0.250 {interval('+0.250')}",
    ) in lines
    assert "1 could not be used" in text
    assert "5.4 M parameters, SHA-256 of tensors `abc`" in text


def test_missing_surfaces_are_told() -> None:
    result = made_up(1.0)
    result.outcomes.append(outcome("hollow", 1.0, has_surface=False))
    text = markdown([result], MADE, ShapeSettings(), 64)
    assert "The model has no surface for 1 of 2 objects" in text
    shape = summary(result)["shape"]
    assert shape["without surface"] == {"model": ["hollow"], "extrusion": []}
    assert shape["chamfer"]["extrusion"]["objects"] == 1
    assert shape["fscore"]["model"]["mean"] == pytest.approx(0.25)  # of 0.5 and nothing


def test_a_group_without_views_is_a_dash() -> None:
    result = made_up(1.0)
    result.outcomes[0].angles.fill_(100.0)
    assert "| at most 45 degrees from the input view | 0 " in markdown(
        [result], MADE, ShapeSettings(), 64
    )
    assert summary(result)["views"]["near"]["psnr"]["model"] is None
    assert len(curve(result, "extrusion").bins) == 1


def test_the_summary_is_json_with_every_object() -> None:
    content = json.loads(json.dumps(summary(made_up(1.0, 2.0)), allow_nan=False))
    assert content["views"]["all"]["psnr"]["gain over mean image"]["mean"] == pytest.approx(1.5)
    assert content["views"]["all"]["psnr"]["gain over mean image"]["low"] == pytest.approx(1.0)
    assert [o["name"] for o in content["per_object"]] == ["object-0", "object-1"]
    assert content["skipped"] == [{"name": "x", "reason": "it is torn"}]


def test_a_section_replaces_the_one_that_is_there(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    assert insert(card, "one\n") == f"{BEGIN}\none\n{END}\n"
    card.write_text(f"# Card\n\n{BEGIN}\nold\n{END}\n\nrest\n")
    assert insert(card, "new\n") == f"# Card\n\n{BEGIN}\nnew\n{END}\n\nrest\n"
    card.write_text("# Somebody's words\n")
    with pytest.raises(ValueError, match="has no lines"):
        insert(card, "new\n")


def test_table_columns_are_aligned() -> None:
    assert table([["a", "long"], ["wider", "b"]]).splitlines() == [
        "| a     | long |",
        "|-------|------|",
        "| wider | b    |",
    ]


def test_conditions_tell_the_weights_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = LRM(micro_config())
    one.save_pretrained(tmp_path)
    same = LRM.from_pretrained(tmp_path)
    found = conditions(same, str(tmp_path), {})["weights"]
    assert found["tensors_sha256"] == tensors_hash(one)
    data = (tmp_path / "model.safetensors").read_bytes()
    assert found["files_sha256"]["model.safetensors"] == hashlib.sha256(data).hexdigest()
    with torch.no_grad():
        next(same.parameters()).add_(1.0)
    assert tensors_hash(same) != tensors_hash(one)


def test_shown_objects_are_the_worst_the_middle_and_the_best() -> None:
    result = made_up(5.0, 1.0, 3.0, 9.0, 0.0, 4.0, 7.0)
    assert ranked(result) == [4, 1, 2, 5, 0, 6, 3]
    assert groups(result) == {"typical": [2, 5], "best": [3, 6], "worst": [4, 1]}
    assert groups(made_up(1.0)) == {"typical": [0], "best": [], "worst": []}
    for few in (2, 3, 5):
        shown = [i for chosen in groups(made_up(*range(few))).values() for i in chosen]
        assert len(shown) == len(set(shown))


def test_pictures_can_be_drawn() -> None:
    result = made_up(1.0, 2.0, -3.0)
    assert sheet(result).shape[2] == 3
    drawn = plot([curve(result, "mean image"), curve(result, "extrusion")])
    blue = (drawn.astype(int) - [31, 100, 180]).__abs__().sum(-1) < 30
    assert blue.any()
