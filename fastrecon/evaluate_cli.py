"""``fastrecon evaluate``: figures of a model on objects that it never saw."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from .checkpoint import CheckpointError, write_atomic
from .data.meshes.mesh import Up
from .recipes import RECIPES

PROG = "fastrecon evaluate"


@dataclass(frozen=True)
class EvaluateOptions:
    """Compare a model's views and surfaces of objects that it never saw with the truth.

    Beside the model stand two baselines: the mean image, and the extruded silhouette. Writes OUT/
    evaluation.json (every figure, its interval, its conditions), tables.md, gain_by_angle.png and
    sheets of typical, best and worst objects.
    """

    weights: str = ""
    """Checkpoint folder, file or hub id (ours, TripoSR's, Real3D's); the shipped model if empty."""
    recipe: str = "small"
    """Whose procedural objects are held out: the recipe that the model was trained with."""
    objects: int = 64
    """Held-out procedural objects; 0 leaves them out."""
    views: int = 8
    """Random views per object."""
    size: int = 64
    """Side of the pictures that are compared, pixels."""
    meshes: tuple[str, ...] = ()
    """GLB, OBJ and PLY files, folders (searched with their subfolders), or quoted globs."""
    mesh_objects: int = 64
    """Most meshes to take; of more, a seeded choice, spread over the folders."""
    up: Up = "y"
    """Axis of the mesh files that points up: y (glTF, most OBJ) or z (CAD, robotics)."""
    resolution: int = 96
    """Grid points along a side of the box in which reconstructed meshes are cut."""
    points: int = 10_000
    """Points on each surface for Chamfer distance and F-score."""
    seed: int = 0
    """Of the choice of meshes, their turns and views, and of the points."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/evaluation")
    """Folder to write to."""
    markdown: Path | None = None
    """Also write the tables here; in a file that exists, between the lines that its error names."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        least = {"objects": 0, "views": 1, "size": 7, "mesh_objects": 1, "resolution": 4}
        for name, low in (least | {"points": 1, "seed": 0}).items():
            if getattr(self, name) < low:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least {low}, got {getattr(self, name)}")
        if not self.objects and not self.meshes:
            raise ValueError("nothing to evaluate: --objects is 0 and no --meshes are named")
        if self.recipe not in RECIPES:
            raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fastrecon evaluate``; returns the exit code (0: done, 1: failed, 2: misused)."""
    from .data.meshes.render import RenderError
    from .data.render_set import RenderSetError
    from .evaluation.protocol import EvaluationError

    args = list(sys.argv[1:] if argv is None else argv)
    options = tyro.cli(EvaluateOptions, args=args, prog=PROG)
    command = shlex.join([*PROG.split(), *args])
    try:
        options.check()
    except ValueError as error:
        return _complain(error, 2)
    try:
        return evaluate(options, command)
    except KeyboardInterrupt:
        return _complain("\nstopped; nothing was written", 130)
    except (CheckpointError, RenderSetError, RenderError, EvaluationError, ValueError) as error:
        return _complain(error, 1)
    except (OSError, ImportError) as error:
        return _complain(error, 1)


def evaluate(options: EvaluateOptions, command: str = PROG) -> int:
    """Evaluate, print the tables, write the report. Returns the exit code.

    Raises:
        ValueError, CheckpointError, RenderSetError, RenderError, EvaluationError: the message says
            what to do; nothing was written.
    """
    from .data.stream import mean_image
    from .evaluation.mesh_set import MeshSet
    from .evaluation.protocol import ShapeSettings, evaluate_set
    from .evaluation.report import conditions, insert, markdown, summary
    from .evaluation.subjects import ProceduralSet, SubjectSet
    from .reconstruct import load_model

    options.check()
    began = time.perf_counter()
    if options.markdown is not None:
        insert(options.markdown, "")  # refuse before the work, not after it
    options.out.mkdir(parents=True, exist_ok=True)
    lrm = load_model(options.weights, options.device)
    cfg = replace(RECIPES[options.recipe](), model=lrm.config)
    sets: list[SubjectSet] = []
    if options.objects:
        sets.append(ProceduralSet(cfg, options.objects, options.views, options.size))
    if options.meshes:
        sets.append(
            MeshSet(
                options.meshes,
                options.mesh_objects,
                lrm.config,
                options.views,
                options.size,
                options.seed,
                options.up,
            )
        )
    print("mean image of 256 training objects ...", flush=True)
    mean = mean_image(cfg, options.size)
    shape = ShapeSettings(options.resolution, options.points, options.seed)
    results = [evaluate_set(lrm, subjects, mean, shape) for subjects in sets]

    settings = json.loads(json.dumps(asdict(options), default=str))
    made: dict[str, Any] = conditions(lrm, options.weights, settings)
    made |= {"command": command, "seconds": round(time.perf_counter() - began, 1)}
    text = markdown(results, made, shape, options.size)
    content = {"conditions": made, "sets": [summary(result) for result in results]}
    files = _files(results, text, content)
    for name, data in files.items():
        write_atomic(options.out / name, data)
    if options.markdown is not None:
        write_atomic(options.markdown, insert(options.markdown, text).encode())
    print(text)
    for result in results:
        for skipped in result.skipped:
            print(f"left out: {skipped.name}: {skipped.reason}")
    print(f"{made['seconds']:.0f} s; {options.out}/: {'  '.join(files)}")
    return 0


def _files(results: Sequence[Any], text: str, content: dict[str, Any]) -> dict[str, bytes]:
    from .evaluation.figures import curve, plot, sheet
    from .export.pictures import png_bytes

    curves = [curve(r, over) for r in results for over in ("mean image", "extrusion")]
    return {
        "evaluation.json": json.dumps(content, indent=1).encode(),
        "tables.md": text.encode(),
        "gain_by_angle.png": png_bytes(plot(curves)),
        **{f"sheet_{result.key}.png": png_bytes(sheet(result)) for result in results},
    }


def _complain(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code
