"""``fastrecon curate IMAGES``: whole, unoccluded objects out of photographs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .curation.coco import Entry, read_coco
from .curation.decide import Job
from .curation.filters import FilterSettings
from .curation.manifest import report_text, write_report
from .curation.models import estimate_depth, find_pictures, load_pipeline, segment
from .curation.occlusion import DEFAULT, PAPER
from .curation.pipeline import curate
from .curation.sheets import write_sheets

PROG = "fastrecon curate"


@dataclass(frozen=True)
class CurateOptions:
    """Cut whole, unoccluded objects out of photographs (Real3D, appendix B).

    Needs every picture's instances and depth: your own files, or networks that are run first.
    Writes OUT/crops/ (PNG with alpha), manifest.jsonl (what became of every instance, and why),
    report.json (counts), sheet.png and stages.png. The same command again continues an interrupted
    run; pictures that failed are tried again.
    """

    images: tyro.conf.Positional[Path]
    """Folder of pictures."""
    depth_kind: Literal["disparity", "metric"]
    """What depth maps hold: disparity (nearer is larger; Depth Anything, MiDaS), or distance."""
    instances: Path | None = None
    """COCO JSON (polygons or run lengths), or a folder of them; file_name is below IMAGES."""
    depth_maps: Path | None = None
    """Folder with NAME.npy or NAME.png (16-bit grey) for a picture NAME.jpg."""
    segment: str = ""
    """Instead of --instances: a model for transformers, hub id or folder, for example
    facebook/mask2former-swin-large-coco-instance."""
    depth: str = ""
    """Instead of --depth-maps: a model for transformers, hub id or folder, for example
    depth-anything/Depth-Anything-V2-Small-hf."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/curated")
    """Folder to write to."""
    occlusion: Literal["default", "paper"] = "default"
    """"paper": 20 points, half of which decide; "default": 100, of which 15% do."""
    filters: tyro.conf.OmitArgPrefixes[FilterSettings] = field(default_factory=FilterSettings)
    seed: int = 0
    """Of the points that are compared."""
    workers: int = os.cpu_count() or 1
    """Processes; 0 works in the command's own."""
    sheets: bool = True
    """Draw sheet.png and stages.png."""
    device: str = "auto"
    """Of the networks: "auto", "cpu", "cuda" or "cuda:1"."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        for files, model, names in (
            (self.instances, self.segment, "--instances or --segment"),
            (self.depth_maps, self.depth, "--depth-maps or --depth"),
        ):
            if (files is None) == (not model):
                raise ValueError(f"pass one of {names}, got {'both' if model else 'neither'}")
        if self.workers < 0:
            raise ValueError(f"--workers must be at least 0, got {self.workers}")
        if not self.images.is_dir():
            raise ValueError(f"{self.images} is no folder; name the folder of pictures")
        self.filters.check()


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fastrecon curate``; returns the exit code.

    0: done; 1: failed, or some pictures did; 2: misused; 130 or 143: stopped by a signal.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    options = tyro.cli(CurateOptions, args=args, prog=PROG)
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return run(options)
    except KeyboardInterrupt:
        return _complain("\nstopped; finished pictures are whole", 130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                f"no room in {options.out} ({error}); free some space and run the same command "
                "again: finished pictures stay",
                1,
            )
        return _complain(f"cannot write to {options.out} ({error}); check the folder", 1)
    except (ValueError, ImportError) as error:
        return _complain(error, 1)


def run(options: CurateOptions) -> int:
    """Run the networks that are asked for, curate, draw, print the report.

    Raises:
        ValueError, ImportError: the message says what to do.
        OSError: the output cannot be written.
    """
    entries, depth_maps = _inputs(options)
    job = Job(
        options.images,
        depth_maps,
        options.out,
        options.depth_kind,
        options.filters,
        PAPER if options.occlusion == "paper" else DEFAULT,
        options.seed,
    )
    code = curate(entries, job, options.workers)
    print(report_text(write_report(options.out)))
    if code >= 128:
        print("stopped; finished pictures are whole, the same command continues", file=sys.stderr)
        return code
    drawn = write_sheets(entries, job) if options.sheets else []
    print(f"{options.out}/: crops  manifest.jsonl  report.json  {'  '.join(drawn)}")
    return code


def _inputs(options: CurateOptions) -> tuple[list[Entry], Path]:
    """The instances, and the folder of depth maps, after the networks have run."""
    wrong: dict[str, str] = {}
    names = find_pictures(options.images) if options.segment else []
    instances = options.instances or options.out / "instances"
    if options.segment:
        pipe = load_pipeline("image-segmentation", options.segment, options.device)
        wrong |= segment(options.images, names, instances, pipe, options.filters.min_score)
    entries = read_coco(instances)
    depth_maps = options.depth_maps or options.out / "depth"
    if options.depth:
        pipe = load_pipeline("depth-estimation", options.depth, options.device)
        names = [entry.name for entry in entries if not entry.problem]
        wrong |= estimate_depth(options.images, names, depth_maps, pipe)
    listed = {entry.name for entry in entries}
    entries += [
        Entry(name, (0, 0), problem=text) for name, text in wrong.items() if name not in listed
    ]
    return entries, depth_maps


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
