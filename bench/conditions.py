"""The conditions that a figure was measured under: without them it is a rumour."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch
from fastrecon_kernels.common.backend import triton_installed

ROOT = Path(__file__).resolve().parents[1]


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def child_environment() -> dict[str, str]:
    """The environment for a process that imports this checkout, installed or not."""
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def output_of(*command: str) -> str | None:
    """What a program prints, or None if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit() -> str:
    """The commit that is checked out, "+" after it if files differ; "unknown" without git."""
    head, changes = output_of("git", "rev-parse", "--short", "HEAD"), None
    if head is not None:
        changes = output_of("git", "status", "--porcelain")
    return "unknown" if head is None else head + ("+" if changes else "")


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_average() -> float | None:
    """Processes that wanted to run during the last minute, where the system tells it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def device_slug(device: torch.device | str) -> str:
    """The device as a folder name: GPU, or CPU with the threads that are used."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_name()} {torch.get_num_threads()} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def launch_choices(device: torch.device) -> str:
    """Whether the kernels run with their default launch choices or with kept ones, in words."""
    if device.type != "cuda" or not triton_installed():
        return "defaults"
    from fastrecon_kernels.render.tuned import state

    return state(device)


def conditions(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Device, versions, threads, load and commit, for JSON."""
    found: dict[str, Any] = {
        "device": torch.device(device).type,
        "slug": device_slug(device),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "python": platform.python_version(),
        "commit": commit(),
        "inputs": "float32",
        "tuning": launch_choices(torch.device(device)),
        "load_before": load_average(),
    }
    if torch.device(device).type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "driver": output_of(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ),
            "eager_tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return found
