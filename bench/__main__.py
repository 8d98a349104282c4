"""Measure the operators and the renderer against what is published.

    python -m bench [--device cpu|cuda] [--quick] [--only NAME ...] [--save | --out DIR]
    python -m bench guard [--result FILE]     fail on a loss against the device's baseline
    python -m bench --only sweep              time and memory against samples, rays, channels, ...
    python -m bench plot RESULT.json          draw a result
    python -m bench page RESULT.json FILE     put its table into a page

Parity first: on the benchmark's own inputs, every renderer's results (and gradients) are compared
with the published renderer's, and one that differs is reported and not timed. Then calls are timed
in turns. Every row says what it was measured on; see NOTES.md. Exits with 1 if a row failed.

Kept launch choices are used where there are some (kernels/README.md, "Tuning"); FASTRECON_TUNE=0
measures the defaults. The conditions say which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.baselines.lightplane import absence
from bench.case import Case
from bench.conditions import ROOT, conditions
from bench.guard import baseline_path, comparable, find_losses
from bench.harness import Options
from bench.memory_count import PATH as MEMORY_COUNT
from bench.operators import CASES
from bench.page import memory_table, page_table, put_into_page, static_table
from bench.peaks import measure_peaks
from bench.plot_sweep import plot_sweep
from bench.plots import plot_result
from bench.report import (
    RESULTS,
    failed,
    format_conditions,
    new_result,
    read_result,
    result_name,
    write_result,
)
from bench.roofline import plot_roofline, timed_workloads
from bench.runner import run_apart, run_here
from bench.static_baseline import PATH as STATIC_BASELINE

BUDGET = {"cpu": 4.0, "cuda": 2.0}
"""Seconds of timed calls per renderer, case and pass."""
SCRATCH = ROOT / "runs" / "bench"
"""Results that nobody asked to keep; git ignores it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a run is told."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases with one of these in it")
    parser.add_argument("--exactly", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds per renderer")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="also torch.compile of the published renderer; on a CPU it needs a C++ compiler",
    )
    parser.add_argument(
        "--extras", action=argparse.BooleanOptionalAction, help="typical object, whole frames"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory")
    parser.add_argument(
        "--together", action="store_true", help="all cases in one process, on a GPU too"
    )
    parser.add_argument("--no-plot", action="store_true", help="write no PNG beside the JSON")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write JSON and plot there")
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help=f"write to {RESULTS.name}/<device>/")
    parser.add_argument(
        "--save-baseline", action="store_true", help="make this run the rule for `guard`"
    )


def chosen_cases(options: argparse.Namespace, device: torch.device) -> list[Case]:
    """The cases that are asked for.

    Raises:
        SystemExit: if a name matches none.
    """
    if options.exactly:
        return [CASES[options.exactly]]
    extras = device.type == "cuda" if options.extras is None else options.extras
    if options.only is None:
        usual = [case for case in CASES.values() if case.sweep is None]
        return [case for case in usual if extras or not case.extra]
    for name in options.only:
        if not any(name in case for case in CASES):
            raise SystemExit(f"--only {name}: no such case; there are {', '.join(CASES)}")
    return [c for c in CASES.values() if any(name in c.name for name in options.only)]


def child_arguments(options: argparse.Namespace) -> list[str]:
    """The options of a run, for the process of one of its cases."""
    arguments = ["--device", options.device, "--threads", str(options.threads)]
    if options.quick:
        arguments.append("--quick")
    if options.budget is not None:
        arguments += ["--budget", str(options.budget)]
    if options.compile is not None:
        arguments.append("--compile" if options.compile else "--no-compile")
    if options.no_memory:
        arguments.append("--no-memory")
    return arguments


def run(options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Measure, print and write; returns the result and where it lies."""
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU")
    device = torch.device(options.device)
    cases = chosen_cases(options, device)
    found = conditions(device) | {"lightplane": absence() or "installed"}
    result = new_result(found, options.quick)
    path = options.json or output_folder(options, result) / result_name(result)

    def save() -> None:
        write_result(path, result)

    if not (options.json or options.quick):
        result["peaks"] = measure_peaks(device)
    save()
    if not options.json:
        print(format_conditions(result["conditions"]), "\n", flush=True)
    if device.type == "cuda" and not options.together:
        run_apart(cases, child_arguments(options), result, save)
    else:
        settings = Options(
            device,
            quick=options.quick,
            compile=device.type == "cuda" if options.compile is None else options.compile,
            memory=not options.no_memory,
            budget=options.budget or (0.2 if options.quick else BUDGET[options.device]),
        )
        run_here(cases, settings, result, save)
    return result, path


def output_folder(options: argparse.Namespace, result: dict[str, Any]) -> Path:
    """Where a run writes."""
    if options.out is not None:
        return options.out
    slug = result["conditions"]["slug"]
    return (RESULTS if options.save else SCRATCH) / slug


def measure(arguments: Sequence[str]) -> int:
    """`python -m bench`."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    result, path = run(options)
    wrong = failed(result["rows"])
    if options.json:
        return 1 if wrong else 0
    print(f"written to {path}")
    if not options.no_plot:
        try:
            draw(result, path.with_suffix(".png"))
        except (ModuleNotFoundError, ValueError) as error:
            print(f"not drawn: {error}")
    for line in wrong:
        print(f"FAILED {line}")
    if options.save_baseline:
        if wrong:
            print("not made the baseline: rows failed")
        else:
            baseline = baseline_path(result["conditions"]["slug"])
            write_result(baseline, result)
            print(f"baseline written to {baseline}")
    return 1 if wrong else 0


def draw(result: dict[str, Any], path: Path) -> None:
    """Every picture that the rows are good for, at ``path`` and beside it.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        ValueError: there is nothing to draw.
    """
    timed = [row for row in result["rows"] if "p50_ms" in row]
    swept = [row for row in timed if "axis" in row]
    if len(timed) > len(swept) or not timed:
        rows = [row for row in result["rows"] if "axis" not in row]
        print(f"drawn in {plot_result({**result, 'rows': rows}, path)}")
    if swept:
        print(f"drawn in {plot_sweep(result, path.with_name(f'{path.stem}-sweep.png'))}")
    if "peaks" in result and timed_workloads(result):
        print(f"drawn in {plot_roofline(result, path.with_name(f'{path.stem}-roofline.png'))}")


def guard(arguments: Sequence[str]) -> int:
    """`python -m bench guard`: 0 as fast as before, 1 a loss, 2 nothing to compare with."""
    parser = argparse.ArgumentParser(
        prog="python -m bench guard",
        description=sys.modules["bench.guard"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument("--result", type=Path, help="compare this instead of measuring")
    parser.add_argument("--baseline", type=Path, help="instead of the device's own")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    given = None if options.result is None else read_result(options.result)
    slug = conditions(device)["slug"] if given is None else given["conditions"]["slug"]
    path = options.baseline or baseline_path(slug)
    if not path.exists():
        print(
            f"no baseline for this device ({slug}); make one on the commit to compare with: "
            "python -m bench --save-baseline"
        )
        return 2
    result = run(options)[0] if given is None else given
    baseline = read_result(path)
    reason = comparable(result, baseline)
    if reason:
        print(f"cannot compare: {reason}; make a baseline with python -m bench --save-baseline")
        return 2
    asked = None if given is not None else {case.name for case in chosen_cases(options, device)}
    losses = find_losses(result, baseline, asked)
    for line in losses:
        print(f"LOSS {line}")
    print(f"{len(losses)} losses against {path} ({baseline['conditions']['commit']})")
    return 1 if losses else 0


def plot(arguments: Sequence[str]) -> int:
    """`python -m bench plot`."""
    parser = argparse.ArgumentParser(prog="python -m bench plot", description="Draw a result.")
    parser.add_argument("result", type=Path)
    parser.add_argument("--out", type=Path, help="PNG to write; beside the JSON by default")
    options = parser.parse_args(arguments)
    draw(read_result(options.result), options.out or options.result.with_suffix(".png"))
    return 0


def page(arguments: Sequence[str]) -> int:
    """`python -m bench page`: 0, or 2 if the page has no place for the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench page", description="Put a result's table into a page."
    )
    parser.add_argument(
        "result",
        type=lambda name: Path(name).resolve(),
        help="or bench/results/{static,memory}.json",
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--operator", default="render_rays", help="whose rows")
    options = parser.parse_args(arguments)
    try:
        if options.result == STATIC_BASELINE:
            put_into_page(options.page, "static", static_table(options.result))
        elif options.result == MEMORY_COUNT:
            put_into_page(options.page, "memory", memory_table(options.result))
        else:
            result = read_result(options.result)
            table = page_table(result, options.operator)
            put_into_page(options.page, result["conditions"]["device"], table)
    except (ValueError, OSError) as error:
        print(error)
        return 2
    print(f"written to {options.page}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose the command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"guard": guard, "plot": plot, "page": page}
    if given and given[0] in commands:
        return commands[given[0]](given[1:])
    return measure(given)


if __name__ == "__main__":
    sys.exit(main())
