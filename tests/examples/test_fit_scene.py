"""The example fits a small set, says how well, and refuses files that it cannot use."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.cameras import camera_rays, orbit_c2w

SCRIPT = Path(__file__).parents[2] / "examples" / "fit_scene.py"
SIDE, VIEWS, FOV = 16, 16, 40.0
SMALL = "--rays=192 --samples=20 --resolution=16 --levels=2 --channels=8 --width=16 --log-every=10"
SMALL += " --fine-samples=0 --skip-every=40 --frames=3 --lr-planes=0.1 --lr-decoder=0.02"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_scene", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


script = load_script()


def ball(c2w: torch.Tensor) -> np.ndarray:
    """A picture of the ball of radius 0.5, coloured by its normal: (SIDE, SIDE, 4) uint8."""
    rays_o, rays_d = camera_rays(c2w, 3 * SIDE, 3 * SIDE, FOV)
    middle = (rays_o * rays_d).sum(-1)
    under_root = middle**2 - (rays_o.square().sum(-1) - 0.25)
    hit = under_root > 0
    normal = 2 * (rays_o + (-middle - under_root.clamp(min=0).sqrt())[..., None] * rays_d)
    rgba = torch.cat([(normal + 1) / 2, torch.ones_like(hit)[..., None]], -1) * hit[..., None]
    premultiplied = rgba.reshape(SIDE, 3, SIDE, 3, 4).mean((1, 3))
    alpha = premultiplied[..., 3:]
    straight = torch.cat([premultiplied[..., :3] / alpha.clamp(min=1e-6), alpha], -1)
    return straight.clamp(0, 1).mul(255).round().byte().numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen views of the ball, in the layout of `fastrecon data render`."""
    folder = tmp_path_factory.mktemp("ball")
    k = torch.arange(VIEWS)
    c2w = orbit_c2w(2.4 * k, torch.asin(1.6 * (k + 0.5) / VIEWS - 0.8), 1.9)
    for i in range(VIEWS):
        Image.fromarray(ball(c2w[i])).save(folder / f"{i:03d}.png")
    frames = [
        {"file_path": f"./{i:03d}", "transform_matrix": c2w[i].tolist()} for i in range(VIEWS)
    ]
    said = {"camera_angle_x": math.radians(FOV), "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(said))
    return folder


def run(data: Path, out: Path, *options: str) -> dict[str, Any]:
    assert script.main([str(data), "--out", str(out), *SMALL.split(), *options]) == 0
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def fitted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("fitted")
    return out, run(made, out, "--steps=80")


def options(made: Path, *more: str) -> Any:
    return script.parse([str(made), *SMALL.split(), "--device=cpu", *more])[1]


def test_it_needs_the_kernels_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    beside = imported - set(sys.stdlib_module_names)
    assert beside == {"fastrecon_kernels", "torch", "numpy", "PIL", "imageio"}


def test_rays_are_those_of_the_cameras(made: Path) -> None:
    train, _ = script.load_data(options(made))
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    c2w = torch.cat([train.c2w[3], torch.tensor([[0.0, 0, 0, 1]])])
    expected = camera_rays(c2w, SIDE, SIDE, FOV)
    rays = train.rays(torch.full((SIDE * SIDE,), 3), y.flatten(), x.flatten())
    for ray, true in zip(rays, expected, strict=True):
        torch.testing.assert_close(ray.view(SIDE, SIDE, 3), true, rtol=0, atol=1e-5)


def test_held_out_views_come_out_far_better_than_their_mean_colour(
    made: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    train, test = (
        (x.rgba[..., :3] / 255) * (x.rgba[..., 3:] / 255) + 1 - x.rgba[..., 3:] / 255
        for x in script.load_data(options(made))
    )
    assert (len(train), len(test)) == (14, 2)
    squares = (test - train.mean((0, 1, 2))).square().mean((1, 2, 3))
    plain = float((-10 * squares.log10()).mean())
    _, metrics = fitted
    assert len(metrics["psnr"]) == 2
    assert metrics["mean_psnr"] == pytest.approx(np.mean(metrics["psnr"]))
    assert metrics["mean_psnr"] > plain + 12
    losses = [row["loss"] for row in metrics["curve"]]
    assert [row["steps"] for row in metrics["curve"]] == list(range(10, 81, 10))
    assert losses[-1] < losses[0] / 4


def test_what_it_writes_can_be_read(fitted: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = fitted
    assert np.asarray(Image.open(out / "views.png")).shape == (2 * SIDE, 3 * SIDE, 3)
    with Image.open(out / "turntable.gif") as turntable:
        assert getattr(turntable, "n_frames", 1) == 3
        assert turntable.size == (SIDE, SIDE)
    lines = (out / "points.ply").read_text().splitlines()
    count = int(lines[2].removeprefix("element vertex "))
    points = np.loadtxt(lines[lines.index("end_header") + 1 :], ndmin=2)
    assert points.shape == (count, 6)
    assert count > 50
    assert np.median(np.linalg.norm(points[:, :3], axis=1)) < 0.6
    planes = torch.load(out / "field.pt", weights_only=True)["planes.0"]
    assert planes.shape == (1, 3, 8, 16, 16)
    assert metrics["steps"] == 80
    assert not metrics["interrupted"]
    assert metrics["torch"] == torch.__version__


def test_depth_is_the_distance_of_the_surface(
    made: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    """The field is fitted to colours alone; the ball's nearest point is 1.4 away."""
    args = options(made)
    field = script.Field(args, fitted[1]["radius"])
    field.load_state_dict(torch.load(fitted[0] / "field.pt", weights_only=True))
    out = field.picture(script.load_data(args)[1], 0)
    middle = SIDE // 2
    assert float(out.depth[middle, middle]) == pytest.approx(1.4, abs=0.15)
    assert float(out.opacity[middle, middle]) > 0.9
    assert float(out.opacity[0, 0]) < 0.1


def curve(made: Path, *more: str) -> list[float]:
    args = options(made, "--log-every=1", *more)
    train, _ = script.load_data(args)
    torch.manual_seed(args.seed)
    field = script.Field(args, script.choose_radius(train, args)).to(args.device)
    train = script.Views(*(x.to(args.device) for x in train))
    log: dict[str, Any] = {"steps": 0, "seconds": 0.0, "curve": []}
    script.fit(field, train, args, log)
    return [row["loss"] for row in log["curve"]]


def test_the_reference_gives_the_same_curve(made: Path, device: torch.device) -> None:
    """Against the kernels where there is a GPU, else against the renderer's path for CPUs."""
    run = ("--steps=12", f"--device={device}", "--precision=fp32")
    ours = curve(made, *run)
    np.testing.assert_allclose(ours, curve(made, *run, "--backend=reference"), rtol=1e-2)
    other = curve(made, *run, "--seed=1")
    assert abs(other[-1] / ours[-1] - 1) > 1e-2


def test_importance_samples(made: Path) -> None:
    losses = curve(made, "--steps=40", "--samples=8", "--fine-samples=8")
    assert losses[-1] < losses[0] / 2


def test_an_interrupted_run_writes_what_it_has(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, calls = torch.Tensor.backward, []

    def interrupted(self: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        backward(self)

    monkeypatch.setattr(torch.Tensor, "backward", interrupted)
    assert script.main([str(made), "--out", str(tmp_path), *SMALL.split()]) == 130
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["interrupted"]
    assert metrics["steps"] == 12
    assert len(metrics["psnr"]) == 2
    assert (tmp_path / "turntable.gif").exists()


def test_time_limit(made: Path) -> None:
    assert len(curve(made, "--time-limit=1e-9")) == 1


def test_train_and_test_files(made: Path, tmp_path: Path) -> None:
    said = json.loads((made / "transforms.json").read_text())
    for name, part in (("train", said["frames"][:3]), ("test", said["frames"][3:5])):
        (tmp_path / name).mkdir()
        for frame in part:
            shutil.copy(made / f"{frame['file_path']}.png", tmp_path / name)
            frame["file_path"] = f"./{name}/{frame['file_path'][2:]}.png"
        (tmp_path / f"transforms_{name}.json").write_text(json.dumps({**said, "frames": part}))
    train, test = script.load_data(options(tmp_path, "--downscale", "2"))
    assert train.rgba.shape == (3, SIDE // 2, SIDE // 2, 4)
    assert test.c2w.shape == (2, 3, 4)
    # half as many pixels across the same angle
    assert train.focal[0].item() == pytest.approx(SIDE / 4 / math.tan(math.radians(FOV / 2)))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "transforms.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def shift(said: dict[str, Any]) -> None:
    for frame in said["frames"]:
        frame["transform_matrix"][0][3] += 5.0


def opaque(folder: Path) -> None:
    for path in folder.glob("*.png"):
        Image.open(path).convert("RGB").save(path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no transforms": (
        lambda d: (d / "transforms.json").unlink(),
        "neither transforms_train.json nor transforms.json; name a folder",
    ),
    "broken JSON": (
        lambda d: (d / "transforms.json").write_text('{"frames": ['),
        "transforms.json cannot be used (JSONDecodeError",
    ),
    "no frames": (lambda d: edit(d, lambda s: s.pop("frames")), "it must be JSON with"),
    "no angle": (lambda d: edit(d, lambda s: s.pop("camera_angle_x")), "2 atan(width / (2 focal))"),
    "no matrix": (
        lambda d: edit(d, lambda s: s["frames"][2].update(transform_matrix=[[1.0]])),
        "4 x 4 transform_matrix",
    ),
    "NaN pose": (
        lambda d: edit(d, lambda s: s["frames"][2]["transform_matrix"][0].__setitem__(3, math.nan)),
        "./002 has no usable camera",
    ),
    "no picture": (lambda d: (d / "005.png").unlink(), "005 does not exist, nor with .png"),
    "damaged picture": (
        lambda d: (d / "005.png").write_bytes((d / "005.png").read_bytes()[:200]),
        "005.png is damaged",
    ),
    "sizes": (
        lambda d: Image.open(d / "007.png").resize((9, 8)).save(d / "007.png"),
        "./007 is 9 x 8 px, ./000 is 16 x 16; bring all pictures to one size",
    ),
    "no alpha": (opaque, "000.png has no alpha (or no background); cut the object out"),
    "nothing held out": (
        lambda d: edit(d, lambda s: s.update(frames=s["frames"][:3])),
        "--hold-out 8 of the 3 views",
    ),
    "off the origin": (lambda d: edit(d, shift), "of the object's pixels look past the cube"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_errors_say_what_to_do(
    what: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGE[what]
    data = tmp_path / "data"
    shutil.copytree(made, data)
    damage(data)
    with pytest.raises(SystemExit) as stopped:
        script.main([str(data), "--out", str(tmp_path / "out"), *SMALL.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--steps 0", "--levels 6", "--samples 0", "--backend cuda"])
def test_options_that_make_no_sense(
    option: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main([str(made), "--out", str(tmp_path), *SMALL.split(), *option.split()])
    assert option.split()[0].strip("-")[:5] in capsys.readouterr().err


def test_pictures_on_white_without_alpha(made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(made, data)
    for path in data.glob("*.png"):
        white = Image.new("RGBA", (SIDE, SIDE), "white")
        white.alpha_composite(Image.open(path))
        white.convert("RGB").save(path)
    losses = curve(data, "--opaque", "--steps=40")
    assert losses[-1] < losses[0] / 2
