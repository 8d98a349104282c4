"""Optional libraries: found, missing, and a torchvision whose operators do not fit torch."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from fastrecon.config import NetworksConfig
from fastrecon.perceptual import libraries, load_clip, load_lpips

ROOT = Path(__file__).parents[2]

TORCHVISIONS = {
    "healthy": "from . import part",
    "faulty": "from . import part\nraise RuntimeError('no such device')",
    "unfit": """
        import torch
        from . import part
        torch.library.register_fake("torchvision::nms")(lambda boxes, scores, threshold: boxes)
        torch.library.register_fake("torchvision::qnms")(lambda boxes, scores, threshold: boxes)
        """,
    "unheard of": """
        from . import part
        raise RuntimeError("operator torchvision::roi_align does not exist")
        """,
}
"""Made-up packages of that name, in the order in which they are imported."""

SCRIPT = """
import importlib, json, sys
sys.path[:0] = {paths}
import fastrecon.perceptual
from fastrecon.perceptual.libraries import _SCHEMAS, import_torchvision

report = {{"libraries": [n for n in ("torchvision", "lpips", "open_clip") if n in sys.modules]}}
for name, folder in {folders}.items():
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        import_torchvision()
        error = ""
    except ImportError as failure:
        error = str(failure)
    modules = sorted(n for n in sys.modules if n.split(".")[0] == "torchvision")
    report[name] = {{"error": error, "modules": modules, "declared": len(_SCHEMAS)}}
    sys.path.remove(folder)
    for module in modules:
        del sys.modules[module]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What importing each of them did in a fresh interpreter."""
    folders = {}
    for name, code in TORCHVISIONS.items():
        package = tmp_path_factory.mktemp("fake") / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(textwrap.dedent(code))
        (package / "part.py").touch()
        folders[name] = str(package.parent)
    script = SCRIPT.format(paths=[str(ROOT), str(ROOT / "kernels")], folders=folders)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_package_imports_no_library(report: dict[str, Any]) -> None:
    assert report["libraries"] == []


def test_a_healthy_torchvision_is_left_alone(report: dict[str, Any]) -> None:
    assert report["healthy"] == {
        "error": "",
        "modules": ["torchvision", "torchvision.part"],
        "declared": 0,
    }


def test_operators_that_cannot_be_loaded_are_declared(report: dict[str, Any]) -> None:
    assert report["unfit"] == {
        "error": "",
        "modules": ["torchvision", "torchvision.part"],
        "declared": 1,
    }


@pytest.mark.parametrize(("name", "reason"), [("faulty", "device"), ("unheard of", "roi_align")])
def test_other_faults_are_reported(report: dict[str, Any], name: str, reason: str) -> None:
    error = report[name]["error"]
    assert reason in error
    assert "install the torchvision made for this torch" in error
    assert report[name]["modules"] == []


@pytest.mark.parametrize("load", [load_lpips, load_clip])
def test_missing_libraries_name_the_extra(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    for name in ("lpips", "open_clip"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(libraries, "import_torchvision", lambda: None)
    with pytest.raises(ImportError, match=r'pip install "fastrecon\[perceptual\]"; or'):
        load(NetworksConfig(), "cpu")
