"""Peak memory of a renderer on a CPU, measured in a process of its own.

A renderer that is measured second in one process finds the first one's heap and looks several times
too small.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

from bench.case import TINY, Pass, Size
from bench.conditions import ROOT, child_environment


def measure_memory(case: str, renderer: str, which: Pass, size: Size) -> int:
    """Bytes by which a fresh process grows over one call.

    Raises:
        RuntimeError: with what the process said, if it fails.
    """
    command = [sys.executable, "-m", "bench.fresh", case, renderer, which]
    command += [str(size.views), str(size.rays), str(size.image_side)]
    command += [str(torch.get_num_threads())]
    done = subprocess.run(
        command, cwd=ROOT, env=child_environment(), capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"exit status {done.returncode}")
    return int(done.stdout)


def main(argv: list[str] | None = None) -> int:
    """Print the growth of this process; what measure_memory runs."""
    from bench.harness import make_step
    from bench.memory import peak_growth
    from bench.operators import CASES

    parser = argparse.ArgumentParser(prog="python -m bench.fresh", description=__doc__)
    for name in ("case", "renderer", "which"):
        parser.add_argument(name)
    for name in ("views", "rays", "image_side", "threads"):
        parser.add_argument(name, type=int)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    case, cpu = CASES[options.case], torch.device("cpu")
    renderer, grad = case.renderers[options.renderer], options.which != "forward"
    make_step(renderer, case.make(TINY, cpu, grad), options.which)()
    size = Size(options.views, options.rays, options.image_side)
    step = make_step(renderer, case.make(size, cpu, grad), options.which)
    print(peak_growth(step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
