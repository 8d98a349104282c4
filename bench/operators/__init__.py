"""One file per operator: its cases, and who is measured on them. `CASES` has all of them."""

from __future__ import annotations

from bench.case import Case
from bench.operators import (
    composite,
    query_points,
    render_rays,
    sample_multires,
    sample_triplane,
    sweep,
    typical,
)

CASES: dict[str, Case] = {
    case.name: case
    for module in (
        render_rays,
        sample_triplane,
        sample_multires,
        composite,
        query_points,
        typical,
        sweep,
    )
    for case in module.CASES
}
