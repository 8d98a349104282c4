"""The file that keeps measured launch choices: what is believed, and who may write when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="launch choices are the kernels'")

from fastrecon_kernels.render import candidates, kept, tuned
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.tuning import TUNING, Tuning

from bench.conditions import child_environment
from tests.kernels.launch_choices import (
    BACKWARD,
    FORWARD,
    GPU,
    HOPPER,
    KEY,
    PLACE,
    choice,
    write,
    write_entry,
)
from tests.kernels.launch_choices import gpu as gpu


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "7", b"\xff\xfe\x00", '{"format": 2, "choices": {}}',
        '{"format": 1}', '{"format": 1, "choices": [1]}', '{"format": 1, "choices": {"x": 3}}',
        "[" * 100_000, "9" * 10_000, b" " * (kept.MAX_BYTES + 1),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_damaged_file_is_one_warning_and_the_defaults(tmp_path: Path, text: str | bytes) -> None:
    path = write(tmp_path, text)
    with pytest.warns(RuntimeWarning, match=r"tuning\.json is not used.*; delete it") as found:
        assert [choice(), choice(key=KEY._replace(n_levels=2))] == [HOPPER, HOPPER]
    assert len(found) == 1
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    assert list(kept.read_choices(path)) == [PLACE], "and is replaced by the next choice"


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tuning.json"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.warns(RuntimeWarning, match="no file of at most"):
        assert choice() is HOPPER


HOSTILE: dict[str, object] = {
    "text": "forward",
    "a list": [1],
    "an unknown part": {"sideways": {}},
    "no fields": {"forward": 3},
    "an unknown field": {"forward": {"approx": False}},
    "a field of the other part": {"forward": {"group": [64, 4]}},
    "a huge tile": {"forward": {"field": [1 << 40, 8]}},
    "a tile of no power of two": {"forward": {"field": [96, 8]}},
    "no samples": {"forward": {"field": [0, 8]}},
    "negative warps": {"forward": {"field": [64, -4]}},
    "too many warps": {"forward": {"field": [64, 64]}},
    "half a tile": {"forward": {"field": [64]}},
    "letters": {"forward": {"field": "64"}},
    "text in a tile": {"forward": {"field": ["64", 4]}},
    "fractions": {"forward": {"field": [64.0, 4]}},
    "not a number": {"forward": {"field_registers": float("nan")}},
    "odd registers": {"forward": {"field_registers": 100}},
    "few registers": {"forward": {"field_registers": 8}},
    "truth for a number": {"forward": {"field_programs": True}},
    "a thousand programs": {"forward": {"field_programs": 1000}},
    "bytes without end": {"forward": {"kept_bytes": 1 << 30}},
    "a number for truth": {"backward": {"pair_layers": 1}},
    "no tile": {"backward": {"taps": None}},
    "a flat window": {"backward": {"patch": [4, 4]}},
    "a window of nothing": {"backward": {"patch": [1, 1, 1]}},
    "a window of everything": {"backward": {"line": [128, 128, 128]}},
    "half the tile": {"backward": {"taps": [128, 8], "patch": [4, 4, 4], "window_warps": 4}},
    "false warps": {"backward": {"window_warps": False}},
}


@pytest.mark.parametrize("entry", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_entry_is_one_warning_and_the_defaults(tmp_path: Path, entry: object) -> None:
    write_entry(tmp_path, entry)
    with pytest.warns(RuntimeWarning, match="are not used: .*fastrecon_kernels.tune") as found:
        assert [choice(), choice(False), choice()] == [HOPPER] * 3
    assert len(found) == 1


def test_other_entries_of_a_hostile_file_are_used(tmp_path: Path) -> None:
    entries = {str(KEY): {"forward": {"field": "large"}}}
    other = KEY._replace(n_levels=2)
    entries[str(other)] = {"forward": {"field": [64, 4]}}  # type: ignore[assignment]
    write(tmp_path, json.dumps({"format": 1, "choices": {PLACE: entries}}))
    assert choice(key=other) == HOPPER._replace(field=(64, 4))


def test_every_alternative_would_be_believed() -> None:
    for row, default in TUNING.items():
        for shape in (KEY.shape, DecoderShape(64, 1, (64, 4)), DecoderShape(16, 1, (4,))):
            for stage in candidates.stages(row, shape, ("forward", "backward")):
                found = list(candidates.tunings(stage, shape, "bf16", default))
                assert found[0] == default
                assert len(set(found)) == len(found)
                for tuning in found:
                    parts = {
                        part: {name: getattr(tuning, name) for name in checks}
                        for part, checks in kept.CHECKS.items()
                    }
                    again = kept.checked(json.loads(json.dumps(parts)), default)
                    assert kept.combine(default, again) == tuning


def test_parts_divide_all_that_is_chosen() -> None:
    names = [name for checks in kept.CHECKS.values() for name in checks]
    assert sorted([*names, "approx"]) == sorted(Tuning._fields)


def test_places_are_forgotten_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    for i in range(kept.MAX_PLACES + 2):
        kept.write_parts(path, f"place {i}", "field", {"forward": FORWARD}, HOPPER)
    kept.write_parts(path, "place 2", "field", {"backward": BACKWARD}, HOPPER)
    places = kept.read_choices(path)
    assert len(places) == kept.MAX_PLACES
    assert list(places)[-1] == "place 2"
    assert set(places["place 2"]["field"]) == {"forward", "backward"}


def test_nothing_is_left_of_a_file_that_could_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_entry(tmp_path, {"forward": {"field": [64, 4]}})
    before = path.read_text()

    def refuse(source: object, target: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        tuned.keep(GPU, KEY, {"forward": FORWARD})
    assert path.read_text() == before
    assert {p.name for p in tmp_path.iterdir()} == {"tuning.json", "tuning.lock"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FASTRECON_CACHE": "/own"}, "/own/tuning.json"),
        ({"XDG_CACHE_HOME": "/usual"}, "/usual/fastrecon_kernels/tuning.json"),
        ({"FASTRECON_CACHE": "", "XDG_CACHE_HOME": "relative"}, None),
        ({}, None),
    ],
)
def test_where_the_file_lies(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in ("FASTRECON_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr(sys, "platform", "linux")
    usual = "/home/someone/.cache/fastrecon_kernels/tuning.json"
    assert str(kept.cache_file()) == (expected or usual)


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=child_environment(), text=True
    )


WRITER = """
import sys
from pathlib import Path
from fastrecon_kernels.render.kept import write_parts
from fastrecon_kernels.render.tuning import TUNING
default = TUNING["hopper"]
folder, me = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready {me}").touch()
while len(list(folder.glob("ready *"))) < 2:
    pass
for i in range(60):
    parts = {"forward": {"kept_bytes": i}}
    write_parts(folder / "tuning.json", "place", f"{me} {i}", parts, default)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks are those of Unix")
def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [run_python(WRITER, str(tmp_path), me) for me in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    fields = kept.read_choices(tmp_path / "tuning.json")["place"]
    assert set(fields) == {f"{me} {i}" for me in "ab" for i in range(60)}


IMPORTER = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(str(arguments[0])))
import fastrecon_kernels, fastrecon_kernels.render.operators, fastrecon_kernels.tune
sys.exit(any("tuning." in name and ".py" not in name for name in opened))
"""


def test_imports_read_nothing(tmp_path: Path) -> None:
    write(tmp_path, "{")
    assert run_python(IMPORTER).wait(60) == 0
