"""Every Python snippet of the README runs, and its command lines name things that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from fastrecon.cli import HELP
from fastrecon.data.cli import HELP as DATA_HELP
from fastrecon.experiments.cli import EXPERIMENTS
from fastrecon.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = [
    snippet
    for page in (README, (ROOT / "docs/g3dr.md").read_text())
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
]
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(snippet, "README.md", "exec"), {})


def test_there_are_snippets_to_run() -> None:
    assert len(SNIPPETS) == 4
    assert sum(" && " in line for line in LINES) == 2


@pytest.mark.parametrize("line", LINES, ids=[line[:40] for line in LINES])
def test_command_lines_name_what_exists(line: str) -> None:
    for command in line.split(" && "):
        words = shlex.split(command)
        if words[:2] == ["python", "-m"]:
            module = importlib.util.find_spec(words[2])
            assert module, words[2]
            if module.submodule_search_locations:
                assert importlib.util.find_spec(f"{words[2]}.__main__"), words[2]
        if words[0] == "fastrecon":
            assert f"\n  {words[1]} " in HELP, words[1]
        if words[:2] == ["fastrecon", "data"]:
            assert f"\n  {words[2]} " in DATA_HELP, words[2]
        if words[0] == "fastrecon" and words[1] == "train":
            assert words[2] in {*RECIPES, *EXPERIMENTS}
        if words[:2] == ["python", "train.py"]:
            assert words[2] in {*RECIPES, *EXPERIMENTS}
        for word in words:
            if word.startswith(("fastrecon/", "constraints")):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize(
    "page", ["README.md", "kernels/README.md", "docs/real3d.md", "docs/g3dr.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    for link in links:
        assert link.startswith("https://") or (folder / link).exists(), link
