"""A result as a table in a page, between two comment lines: figures that nobody types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.harness import Row
from bench.report import count, format_conditions

SHOWN = ("published", "published bf16", "published compiled", "reference", "lightplane")
"""Renderers that stand beside ours."""
HEADER = (
    "| case | renderer | median, ms | p20 to p80 | x reference | x published | peak, MB |",
    "|---|---|---|---|---|---|---|",
)


def page_table(result: dict[str, Any], operator: str = "render_rays") -> str:
    """Markdown of the rows of one operator, failures included, and the conditions beneath."""
    lines: list[str] = list(HEADER)
    last = ""
    for row in result["rows"]:
        ours = row["renderer"].startswith("ours")
        if row["case"].split()[0] != operator or not (ours or row["renderer"] in SHOWN):
            continue
        size = f"{row['case']}, {row['pass']}, {count(row['samples'])} samples"
        lines.append(page_line(row, "" if size == last else size))
        last = size
    if len(lines) == len(HEADER):
        raise ValueError(f"the result has no rows of {operator}")
    conditions = f"{format_conditions(result['conditions'])}; {result['date'][:10]}"
    return "\n".join([*lines, "", f"{conditions}. Medians in turns, parity checked first."])


def page_line(row: Row, size: str) -> str:
    """One row of the table."""

    def show(key: str, form: str, scale: float = 1.0) -> str:
        value = row.get(key, 0) * scale
        return "" if key not in row else f"{value:,.0f}" if value >= 1000 else f"{value:{form}}"

    name = f"**{row['renderer']}**" if row["renderer"].startswith("ours") else row["renderer"]
    if row["status"] != "ok":
        said = row.get("error", "differs from the published renderer, not timed")
        return f"| {size} | {name} | {said} | | | | |"
    spread = f"{show('p20_ms', '.4g')} to {show('p80_ms', '.4g')}" if "p20_ms" in row else ""
    cells = [
        show("p50_ms", ".4g"),
        spread,
        show("x_eager", ".2f"),
        show("x_published", ".2f"),
        show("peak_bytes", ".0f", 1e-6),
    ]
    return f"| {size} | {name} | {' | '.join(cells)} |"


STATIC = {
    "registers": "registers",
    "spill_bytes": "spilled, bytes",
    "shared_bytes": "shared memory, bytes",
    "matrix": "tensor-core instructions in the code",
    "reductions": "reductions in the code",
    "issued_per_sample": "warp instructions per sample",
    "special_per_sample": "special functions per sample",
}
"""Columns of the compiler's table."""


def static_table(path: Path, target: str = "sm_90") -> str:
    """Markdown of what `bench.static` saved for one target."""
    found = [row for row in json.loads(path.read_text())["rows"] if row["target"] == target]
    lines = [f"| kernel | {' | '.join(STATIC.values())} |", "|---" * (len(STATIC) + 1) + "|"]
    for row in found:
        cells = ["" if row[key] is None else f"{row[key]:,}" for key in STATIC]
        lines.append(f"| {row['case']} | {' | '.join(cells)} |")
    return "\n".join(lines)


MEMORY = (
    "| workload | samples per ray | kept, bytes per sample | kept, MB "
    "| peak of the forward pass, MB | of the backward pass, MB | of that, whatever the chunk "
    "| bytes per sample in flight, of those expected | deterministic: backward pass, MB |",
    "|---|---|---|---|---|---|---|---|---|",
)


def memory_table(path: Path) -> str:
    """Markdown of what `bench.memory_count` saved, and the conditions beneath."""
    saved = json.loads(path.read_text())
    conditions = saved["conditions"]
    rows = {
        (row["workload"], row["importance"], row["samples"], row["deterministic"]): row
        for row in saved["rows"]
    }
    lines: list[str] = list(MEMORY)
    last = ""
    for (workload, importance, samples, deterministic), row in rows.items():
        if deterministic:
            continue
        name = f"{workload}, {'half of the samples fine' if importance else 'all coarse'}"
        other = rows[workload, importance, samples, True]
        per_sample = row["kept"] / (conditions["objects"] * row["rays"] * samples)
        mega = [row[key] / 1e6 for key in ("kept", "forward", "backward", "fixed")]
        cells = [f"{per_sample:.2f}", *(f"{x:.0f}" for x in mega)]
        cells += [f"{row['in_flight']:.0f} of {row['formula']}", f"{other['backward'] / 1e6:.0f}"]
        lines.append(f"| {'' if name == last else name} | {samples} | {' | '.join(cells)} |")
        last = name
    versions = ", ".join(f"{name} {conditions[name]}" for name in ("torch", "triton", "commit"))
    found = (
        f"{versions}; {conditions['objects']} objects, {conditions['inputs']} inputs, kernels in "
        f"{conditions['precision']}, gradients of {conditions['gradients']}, launch choices for "
        f"{conditions['processors']} processors, chunks of {conditions['chunk_bytes'] >> 20} MiB. "
        "Counted, not measured."
    )
    return "\n".join([*lines, "", found])


def put_into_page(path: Path, name: str, text: str) -> None:
    """Replace what stands between the page's two lines for ``name``.

    Raises:
        ValueError: the page lacks them; the message has the lines to put there.
    """
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(
            f"{path} has no place for the table; put these lines where it shall be:\n{begin}\n{end}"
        )
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
