"""``fastrecon curate IMAGES``: whole, unoccluded objects out of photographs."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .curation.batches import SHARDS
from .curation.coco import Entry, read_coco
from .curation.decide import CROPS, Job
from .curation.filters import FilterSettings
from .curation.look import look_at_folder, look_at_shards
from .curation.manifest import report_text, write_report
from .curation.models import Networks, find_pictures
from .curation.occlusion import DEFAULT, PAPER
from .curation.pipeline import curate, curate_into_shards
from .curation.samples import find_shards
from .curation.scale import cluster
from .curation.sheets import of_folder, of_shards, write_sheets
from .signals import Interrupted

PROG = "fastrecon curate"


@dataclass(frozen=True)
class CurateOptions:
    """Cut whole, unoccluded objects out of photographs (Real3D, appendix B).

    Needs every picture's instances and depth: your own files, or networks that are run first.
    Writes OUT/crops/ (PNG with alpha) or OUT/shards/, manifest.jsonl (what became of every
    instance, and why), report.json (counts), sheet.png and stages.png. The same command again
    continues an interrupted run; a folder's pictures that failed are tried again.
    """

    depth_kind: Literal["disparity", "metric"]
    """What depth maps hold: disparity (nearer is larger; Depth Anything, MiDaS), or distance."""
    images: tyro.conf.Positional[Path | None] = None
    """Folder of pictures."""
    shards: tuple[str, ...] = ()
    """Instead of a folder: tar files, patterns ('in/*.tar') or folders of them. A sample is key.jpg
    (.png, .webp), key.json (COCO's annotations of it) and key.depth.png (.npy, .npz)."""
    instances: Path | None = None
    """COCO JSON (polygons or run lengths), or a folder of them; file_name is below IMAGES."""
    depth_maps: Path | None = None
    """Folder with NAME.npy, NAME.npz or NAME.png (16-bit grey) for a picture NAME.jpg."""
    segment: str = ""
    """Instead of --instances: a model for transformers, hub id or folder, for example
    facebook/mask2former-swin-large-coco-instance."""
    depth: str = ""
    """Instead of --depth-maps: a model for transformers, hub id or folder, for example
    depth-anything/Depth-Anything-V2-Small-hf."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/curated")
    """Folder to write to."""
    out_shards: bool = False
    """Write crops into tar files, OUT/shards/; input shards always give shards of their names."""
    shard_pictures: int = 256
    """Pictures of a folder that go into one shard."""
    occlusion: Literal["default", "paper"] = "default"
    """"paper": 20 points, half of which decide; "default": 100, of which 15% do."""
    filters: tyro.conf.OmitArgPrefixes[FilterSettings] = field(default_factory=FilterSettings)
    seed: int = 0
    """Of the points that are compared."""
    workers: int = os.cpu_count() or 1
    """Processes; 0 works in the command's own. With --ray local: its CPUs."""
    ray: str = ""
    """Work on Ray Data instead: "auto" or an address for a cluster that runs and sees the same
    folders, "local" for one that is started here."""
    sheets: bool = True
    """Draw sheet.png and stages.png."""
    device: str = "auto"
    """Of the networks: "auto", "cpu", "cuda" or "cuda:1"."""
    batch_size: int = 8
    """Pictures of one size that a network gets at once."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        if (self.images is None) == (not self.shards):
            got = "both" if self.shards else "neither"
            raise ValueError(f"pass a folder of pictures or --shards, got {got}")
        for files, model, names in (
            (self.instances, self.segment, "--instances or --segment"),
            (self.depth_maps, self.depth, "--depth-maps or --depth"),
        ):
            if self.shards and files:
                own = names.split()[0]
                raise ValueError(f"{own} is for folders; a shard's samples have their own files")
            if not self.shards and (files is None) == (not model):
                raise ValueError(f"pass one of {names}, got {'both' if model else 'neither'}")
        for name, least in (("workers", 0), ("batch_size", 1), ("shard_pictures", 1)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least {least}, got {getattr(self, name)}")
        if self.images and not self.images.is_dir():
            raise ValueError(f"{self.images} is no folder; name the folder of pictures")
        self.filters.check()

    @property
    def networks(self) -> Networks:
        """Those that are asked for."""
        return Networks(
            self.segment, self.depth, self.device, self.batch_size, self.filters.min_score
        )


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
        with cluster(options.ray, options.workers) if options.ray else contextlib.nullcontext():
            return run(options)
    except Interrupted as stop:
        return _complain(stop, stop.exit_code)
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

    With ``options.ray``, on the cluster that is connected.

    Raises:
        ValueError, ImportError: the message says what to do.
        OSError: the output cannot be written.
    """
    return _run_shards(options) if options.shards else _run_folder(options)


def _run_shards(options: CurateOptions) -> int:
    shards = find_shards(options.shards)
    found = options.out / "networks"
    if options.networks.any:
        look_at_shards(shards, found, options.networks, bool(options.ray))
    job = _job(options, found, found)
    code = curate_into_shards(shards, job, options.workers, bool(options.ray))
    return _finish(options, job, code, lambda: write_sheets(of_shards(shards, job), job))


def _run_folder(options: CurateOptions) -> int:
    assert options.images is not None
    images, ray = options.images, bool(options.ray)
    instances = options.instances or options.out / "instances"
    depth_maps = options.depth_maps or options.out / "depth"
    names = find_pictures(images) if options.segment else []
    wrong: dict[str, str] = {}
    if options.segment:
        wrong |= look_at_folder(images, names, options.out, options.networks, ray)
    entries = read_coco(instances)
    if options.depth and not options.segment:
        names = [entry.name for entry in entries if not entry.problem]
        wrong |= look_at_folder(images, names, options.out, options.networks, ray)
    listed = {entry.name for entry in entries}
    entries += [
        Entry(name, (0, 0), problem=text) for name, text in wrong.items() if name not in listed
    ]
    job = _job(options, images, depth_maps)
    if options.out_shards:
        code = curate_into_shards(entries, job, options.workers, ray, options.shard_pictures)
    else:
        code = curate(entries, job, options.workers, ray)
    return _finish(options, job, code, lambda: write_sheets(of_folder(entries, job), job))


def _job(options: CurateOptions, images: Path, depth: Path) -> Job:
    # Absolute, as the processes of a cluster work elsewhere.
    return Job(
        images.absolute(),
        depth.absolute(),
        options.out.absolute(),
        options.depth_kind,
        options.filters,
        PAPER if options.occlusion == "paper" else DEFAULT,
        options.seed,
    )


def _finish(options: CurateOptions, job: Job, code: int, draw: Callable[[], list[str]]) -> int:
    print(report_text(write_report(job.out)))
    if code >= 128:
        print("stopped; finished pictures are whole, the same command continues", file=sys.stderr)
        return code
    drawn = draw() if options.sheets else []
    crops = SHARDS if options.shards or options.out_shards else CROPS
    print(f"{options.out}/: {crops}  manifest.jsonl  report.json  {'  '.join(drawn)}")
    return code


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
