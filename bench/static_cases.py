"""Kernels at the shapes of the two workloads, for compilation without a GPU.

A: planes 3 x 64 x 64 x 40, concat (TripoSR). B: planes 3 x (128, 64, 32) x 64, mean (G3DR).
One function per operator; `python -m bench.static` compiles what they name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastrecon_kernels import RenderSettings


@dataclass(frozen=True)
class StaticCase:
    """One specialisation of a kernel.

    ``signature`` names the type of every run-time argument ("*bf16", "i64", "fp32"); pointers
    count as 16-byte aligned, as torch's are, and integers as nothing in particular. ``samples`` is
    what a program does before it ends, or per trip of its loop over tiles; ``values`` are run-time
    numbers that ranges of its loops are made of (see `sass.py`).
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1
    targets: tuple[str, ...] = ()  # that the launch choices are made for; empty: any
    samples: float = 0.0
    values: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, int] = field(default_factory=dict)  # other launch options


TUNED_FOR = {
    "hopper": ("sm_90",),
    "blackwell": ("sm_100",),
    "nvidia": ("sm_80", "sm_86", "sm_89"),
    "amd": ("gfx942",),
}
"""Targets that each row of the launch choices is made for."""


def triplane_sample() -> list[StaticCase]:
    """`sample_triplane` on workload A, with bf16 and with fp32 planes."""
    return [
        *lookup_cases("triplane_sample A bf16", 40, 1, "concat", "bf16"),
        *lookup_cases("triplane_sample A fp32", 40, 1, "concat", "fp32"),
    ]


def multires_lookup() -> list[StaticCase]:
    """`sample_multires` on workload B."""
    return lookup_cases("multires_lookup B bf16", 64, 3, "mean", "bf16")


def lookup_cases(
    name: str, channels: int, n_levels: int, reduction: str, planes: str
) -> list[StaticCase]:
    """The shared lookup kernels: forward; backward to planes through windows (where a chip has
    them) and what these leave, tap by tap, and to points."""
    import torch
    from fastrecon_kernels.common import lookup_kernel as kernels
    from fastrecon_kernels.common import lookup_launch as choices

    shared = choices.shared_constexprs(channels, n_levels, ("xy", "xz", "yz"), reduction)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[planes]

    def case(
        what: str,
        kernel: Any,
        constexprs: dict[str, Any],
        tile: tuple[int, int],
        samples: float,
        *absent: str,
    ) -> StaticCase:
        constants = {**shared, **constexprs, **dict.fromkeys(absent)}
        if "BLOCK_M" in kernel.arg_names:
            constants["BLOCK_M"] = tile[0]
        types = {"rows_ptr": f"*{planes}", "table_ptr": "*i64", "rest_ptr": "*i32"}
        signature = {
            argument: types.get(argument, "*fp32" if argument.endswith("_ptr") else "i32")
            for argument in kernel.arg_names
            if argument not in constants
        }
        return StaticCase(
            f"{name} {what}",
            kernel,
            signature,
            constants,
            tile[1],
            targets=TUNED_FOR[tuned],
            samples=samples,
        )

    cases = []
    for tuned in TUNED_FOR:
        tuning = choices.TUNING[tuned]
        pieces = choices.piece_constexprs(channels, dtype, tuning)
        tile, backward = choices.FORWARD_TILE, tuning.backward
        constexprs = choices.forward_constexprs(channels, dtype, tuning)
        cases.append(case("forward", kernels.lookup_forward, constexprs, tile, tile[0]))
        window = choices.window_tile(tuning, dtype)
        if window is not None:
            constexprs = choices.window_constexprs(channels, window, dtype)
            tile = (window[0] * window[1], choices.WINDOW_WARPS)
            kernel = kernels.lookup_windows
            # A program sees a point once for each plane.
            cases.append(case("backward, planes", kernel, constexprs, tile, tile[0] / 3))
        scatter, samples = choices.scatter_constexprs(channels), backward[0]
        kernel = kernels.lookup_scatter
        if window is not None:
            cases.append(case("backward, planes, rest", kernel, scatter, backward, samples))
        what = "backward, planes, taps"
        cases.append(case(what, kernel, scatter, backward, samples, "rest_ptr"))
        cases.append(case("backward, points", kernels.lookup_points, pieces, backward, samples))
    return cases


def composite() -> list[StaticCase]:
    """Compositing: workload A; B's 32 + 32 samples with every option; EG3D's 32 colours."""
    a, b = RenderSettings.triposr(), RenderSettings.g3dr()
    return [
        *composite_cases("composite A", a, 128, 3, {"chord_ptr", "deltas_ptr"}),
        *composite_cases("composite B", b, 64, 3, {"weights", "prior_ptr"}),
        *composite_cases("composite EG3D", RenderSettings.eg3d(), 96, 32, set()),
    ]


def composite_cases(
    name: str, settings: RenderSettings, n_samples: int, n_colours: int, given: set[str]
) -> list[StaticCase]:
    """Both kernels with those of their optional arguments that are ``given``."""
    from fastrecon_kernels.composite import kernel, launch

    constexprs = launch.kernel_constexprs(settings, n_samples, n_colours)
    if "weights" in given:
        given = given | {"weights_ptr", "out_ts_ptr", "out_deltas_ptr", "d_weights_ptr"}
    optional = {"deltas_ptr", "chord_ptr", "prior_ptr", "weights_ptr", "out_ts_ptr"}
    absent = (optional | {"out_deltas_ptr", "d_weights_ptr"}) - given
    cases = []
    for what, function in (
        ("forward", kernel.composite_forward_kernel),
        ("backward", kernel.composite_backward_kernel),
    ):
        signature, constants = {}, {}
        for argument in function.arg_names:
            if argument in constexprs:
                constants[argument] = constexprs[argument]
            elif argument in absent:
                constants[argument] = None
            elif argument.startswith("n_"):
                signature[argument] = "i32"
            else:
                signature[argument] = "*fp32" if argument.endswith("_ptr") else "fp32"
        samples = constexprs["BLOCK_R"] * n_samples
        cases.append(StaticCase(f"{name} {what}", function, signature, constants, samples=samples))
    return cases


def render() -> list[StaticCase]:
    """The field, forward and backward: Real3D's decoder on workload A, G3DR's on workload B."""
    a, b = RenderSettings.triposr(), RenderSettings.g3dr()
    cases = [select_case("render A select", a, "chord_ptr"), select_case("render B select", b)]
    cases += importance_cases("render B", b)
    for tuned in TUNED_FOR:
        cases += render_cases("render A", a, 40, 1, [64] * 9 + [4], "silu", tuned)
        cases += render_cases("render B", b, 64, 3, [64, 4], "softplus", tuned)
    return cases


def render_cases(
    name: str,
    settings: RenderSettings,
    channels: int,
    n_levels: int,
    widths: list[int],
    activation: str,
    tuned: str,
) -> list[StaticCase]:
    """bf16 kernels of one decoder: inference, training, each kind of layer group, first layer."""
    from fastrecon_kernels.render import tuning as choices
    from fastrecon_kernels.render.kernel import field_kernel
    from fastrecon_kernels.render.kernel_backward import group_backward_kernel
    from fastrecon_kernels.render.kernel_fold import fold_backward_kernel
    from fastrecon_kernels.render.kernel_taps import point_backward_kernel, tap_backward_kernel
    from fastrecon_kernels.render.kernel_windows import window_backward_kernel
    from fastrecon_kernels.render.pack import DecoderShape

    shape = DecoderShape(channels, 3 if settings.reduction == "concat" else 1, tuple(widths))
    tuning = choices.TUNING[tuned]

    def case(
        what: str, kernel: Any, options: dict[str, Any], constexprs: dict[str, Any], *absent: str
    ) -> StaticCase:
        return render_case(f"{name} {what}", kernel, constexprs, absent, options, TUNED_FOR[tuned])

    cases = []
    listed = ["listed_ptr", "n_listed_ptr"]
    for what, absent in (
        ("forward", ["cuts_ptr", *listed]),
        ("forward, skipping", ["cuts_ptr"]),
        ("forward, training", listed),
    ):
        cuts = "cuts_ptr" not in absent
        constexprs = choices.field_constexprs(
            shape,
            settings,
            activation,
            "bf16",
            tuning,
            n_levels=n_levels,
            long_rows=False,
            grid=False,
            along_rays=True,
            cuts=cuts,
        )
        skips = "listed_ptr" not in absent
        options = choices.field_options(shape, tuning, cuts=cuts, listed=skips)
        cases.append(case(what, field_kernel, options, constexprs, "occupancy_ptr", *absent))
    for group in choices.groups(shape, tuning)[-2:]:
        constexprs = choices.group_constexprs(
            shape, group, activation, "bf16", tuning, weight_grad=True
        )
        what = "backward, last layer" if constexprs["LAST"] else "backward, two layers"
        options = choices.tile_options(tuning.group)
        cases.append(case(what, group_backward_kernel, options, constexprs))
    patch = tuning.patch
    first = choices.first_constexprs(shape, settings, n_levels, patch, bias_grad=False, exact=False)
    rest = ("rest_ptr", "list_ptr", "listed_ptr")
    taps = {**first, "ALONG_RAYS": True}
    unused = ("unit_ptr", "d_bias_ptr")
    options = choices.tile_options(tuning.taps)
    if tuning.window_warps:
        window = choices.tile_options((patch[0] * patch[1] * patch[2], tuning.window_warps))
        constexprs = {**first, "PRECISION": "tf32"}
        cases.append(case("backward, windows", window_backward_kernel, window, constexprs, *unused))
        exact = {**constexprs, "EXACT": True}
        cases.append(
            case("backward, windows, exact", window_backward_kernel, window, exact, "d_bias_ptr")
        )
        constexprs = {**taps, "LISTED": True}
        cases.append(case("backward, rest", tap_backward_kernel, options, constexprs, *unused))
    constexprs = {**taps, "LISTED": False}
    cases.append(case("backward, taps", tap_backward_kernel, options, constexprs, *unused, *rest))
    exact = {**constexprs, "EXACT": True}
    unused = ("d_bias_ptr", *rest)
    cases.append(case("backward, taps, exact", tap_backward_kernel, options, exact, *unused))
    constexprs = choices.point_constexprs(
        shape, settings, "bf16", tuning, n_levels=n_levels, along_rays=True
    )
    options = choices.tile_options(tuning.points)
    cases.append(case("backward, rays", point_backward_kernel, options, constexprs))
    constexprs = choices.fold_constexprs(
        shape, settings, "bf16", n_levels=n_levels, planes=True, weights=True
    )
    options = choices.tile_options(tuning.fold)
    cases.append(case("backward, texels", fold_backward_kernel, options, constexprs))
    return cases


def render_case(
    name: str,
    kernel: Any,
    constexprs: dict[str, Any],
    absent: tuple[str, ...],
    options: dict[str, Any],
    targets: tuple[str, ...],
) -> StaticCase:
    """One kernel on bf16 planes, with the pointers of ``absent`` None."""
    block_m = options["BLOCK_M"]
    halves = {"rows_ptr", "weights_ptr", "cuts_ptr", "cut_ptr", "grad_ptr"}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constexprs or argument in absent or argument == "BLOCK_M":
            continue
        if argument == "table_ptr" or (argument == "d_folded_ptr" and constexprs.get("EXACT")):
            signature[argument] = "*i64"
        elif argument in {"rest_ptr", "list_ptr", "listed_ptr", "n_listed_ptr"}:
            signature[argument] = "*i32"
        elif argument.endswith("_ptr"):
            signature[argument] = "*bf16" if argument in halves else "*fp32"
        else:
            signature[argument] = "fp32" if argument in {"radius", "rgb_padding"} else "i32"
    constants = {**constexprs, **dict.fromkeys(absent)}
    if "BLOCK_M" in kernel.arg_names:
        constants["BLOCK_M"] = block_m
    # The first layer's backward kernels see a sample once for each plane, one of them none at all.
    by_plane = {"d_bias_ptr", "d_points_ptr"}.intersection(kernel.arg_names)
    samples = 0.0 if "d_folded_ptr" in kernel.arg_names and not by_plane else block_m
    samples = block_m / 3 if by_plane else samples
    rest = {k: v for k, v in options.items() if k not in ("BLOCK_M", "num_warps", "num_stages")}
    return StaticCase(
        name,
        kernel,
        signature,
        constants,
        num_warps=options["num_warps"],
        num_stages=options["num_stages"],
        targets=targets,
        samples=samples,
        options=rest,
    )


def select_case(name: str, settings: RenderSettings, *absent: str) -> StaticCase:
    """The kernel that lists samples, with a grid and with early stop; without ``deltas_ptr`` where
    the rule has none."""
    from fastrecon_kernels.render.skip import BLOCK_R, SEGMENT
    from fastrecon_kernels.render.skip_kernel import select_kernel

    midpoint = settings.quadrature == "midpoint"
    absent = (*absent, *(("deltas_ptr", "chord_ptr") if midpoint else ()))
    constants: dict[str, object] = {
        "STOP": True,
        "ACTIVATION": settings.density_activation,
        "MIDPOINT": midpoint,
        "DROP_OUTSIDE": settings.outside == "empty",
        "GRID": True,
        "BLOCK_R": BLOCK_R,
        "SEGMENT": SEGMENT,
        **dict.fromkeys(absent),
    }
    types = {"occupancy_ptr": "*u8", "list_ptr": "*i32", "count_ptr": "*i32"}
    types |= dict.fromkeys(("radius", "shift", "scale", "stop"), "fp32")
    signature = {
        name: types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in select_kernel.arg_names
        if name not in constants
    }
    return StaticCase(name, select_kernel, signature, constants, samples=BLOCK_R * SEGMENT)


def importance_cases(name: str, settings: RenderSettings, n_colours: int = 3) -> list[StaticCase]:
    """The kernels that draw and order fine samples, and that merge records in that order."""
    from fastrecon_kernels.render import importance_kernel as kernels

    n_coarse, n_fine = settings.n_samples, settings.n_importance
    order = kernels.importance_options(n_coarse, n_fine, settings.stratified)
    merge = kernels.merge_options(n_coarse, n_fine, n_colours)
    types = {"seed_ptr": "*i64", "order_ptr": "*i32"}
    cases = []
    for what, kernel, options, samples in (
        (
            "draw and order",
            kernels.importance_kernel,
            order,
            order["BLOCK_R"] * (n_coarse + n_fine),
        ),
        ("merge", kernels.merge_kernel, merge, merge["BLOCK"]),
    ):
        constexprs = {key: value for key, value in options.items() if key != "num_warps"}
        signature = {
            argument: types.get(argument, "*fp32" if argument.endswith("_ptr") else "i32")
            for argument in kernel.arg_names
            if argument not in constexprs
        }
        warps = options["num_warps"]
        case = StaticCase(f"{name} {what}", kernel, signature, constexprs, warps, samples=samples)
        cases.append(case)
    return cases


OPERATORS = {
    "triplane_sample": triplane_sample,
    "multires_lookup": multires_lookup,
    "composite": composite,
    "render": render,
}
