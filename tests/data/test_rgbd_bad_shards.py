"""Shards of pictures with depth that are damaged, incomplete or hostile: what is said."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastrecon.data.rgbd import RGBDError, RGBDSet, open_rgbd, rgbd_batch
from fastrecon.data.shard_index import open_shards
from tests.data.test_rgbd import HEIGHT, WIDTH, make_config, which
from tests.data.test_rgbd_shards import (
    assert_same,
    copy_shards,
    make_set,
    make_shards,
    pair,
    write_tar,
)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    open_rgbd.cache_clear()
    yield
    open_rgbd.cache_clear()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(make_set(tmp_path_factory.mktemp("set")))


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    return copy_shards(packed, tmp_path / "shards")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sizes", r"x\.png in .*0\.tar is 26 x 20 but its depth 7 x 7"),
        ("8 bits", r"x\.depth\.png in .*0\.tar must be 16-bit grey, got mode L"),
        ("colour", r"x\.depth\.png in .*0\.tar must be 16-bit grey, got mode RGB"),
        ("constant", r"x\.depth\.png in .*0\.tar is 777 everywhere"),
        ("torn depth", r"x\.depth\.png in .*0\.tar is missing or damaged"),
        ("torn picture", r"x\.png in .*0\.tar is missing or damaged"),
        ("no picture", r"x\.png in .*0\.tar is missing or damaged \(no picture\); copy it again"),
    ],
)
def test_every_bad_pair_is_refused_by_name(how: str, words: str, tmp_path: Path) -> None:
    picture, depth = pair(tmp_path, how)
    members = [("c/x.png", picture), ("c/x.depth.png", depth), ("c/x.json", b'{"class": "c"}')]
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(RGBDError, match=words):
        open_rgbd(str(tmp_path / "0.tar")).sample(0)


def test_samples_without_a_part(tmp_path: Path) -> None:
    picture, depth = pair(tmp_path)
    whole = [("x.png", picture), ("x.depth.png", depth), ("x.cls", b"c")]
    path = tmp_path / "0.tar"

    def opened(*members: tuple[str, bytes]) -> RGBDSet:
        write_tar(path, [*whole, *members])
        open_rgbd.cache_clear()
        return open_rgbd(str(path))

    samples = opened(("y.png", picture), ("y.cls", b"c"))
    assert samples.sample(0).image.shape == (3, HEIGHT, WIDTH)
    with pytest.raises(RGBDError, match=r"y\.depth\.png in .*0\.tar is missing; pack it again"):
        samples.sample(1)
    with pytest.raises(RGBDError, match=r"y in .*0\.tar has no picture; it needs one of jpg"):
        opened(("y.depth.png", depth), ("y.cls", b"c")).sample(1)
    with pytest.raises(RGBDError, match="has jpg and png"):
        opened(("y.png", picture), ("y.jpg", picture), ("y.cls", b"c")).sample(1)
    for said in (b"{", b"[]", b'{"class": 3}', b'{"class": ""}', b"[" * 100_000, b" " * (1 << 21)):
        with pytest.raises(RGBDError, match="says no class of 'y'"):
            opened(("y.png", picture), ("y.depth.png", depth), ("y.json", said))
    with pytest.raises(RGBDError, match=r"holds 'x\.png' twice|holds 'x' a second time"):
        opened(("x.png", picture))
    with pytest.raises(RGBDError, match=r"holds 'y\.cls' twice"):
        opened(("y.cls", b"c"), ("y.cls", b"d"))
    for name in ("../y", "/y", "a/../../y"):
        with pytest.raises(RGBDError, match="leads out of a folder"):
            opened((f"{name}.png", picture), (f"{name}.cls", b"c"))
    write_tar(path, [("x.png", picture), ("x.depth.png", depth)])
    open_rgbd.cache_clear()
    with pytest.raises(RGBDError, match="holds single pictures, not pictures with depth"):
        open_rgbd(str(path))


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(pair(tmp_path)[0])
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for field, data in (("depth.png", pair(tmp_path)[1]), ("cls", b"c")):
            info = tarfile.TarInfo(f"x.{field}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        tar.addfile(link)
    with pytest.raises(RGBDError, match="has no picture"):
        open_rgbd(str(tmp_path / "0.tar")).sample(0)


def test_cut_and_missing_shards(copied: Path) -> None:
    shard = copied / "000001.tar"
    whole = shard.read_bytes()
    third = open_shards(copied, ("rgbd",))[1].offsets[1]
    for length in (len(whole) - 512, len(whole) - 1024, third, third + 100, 700, 100, 0):
        shard.write_bytes(whole[:length])
        open_rgbd.cache_clear()
        with pytest.raises(RGBDError, match=r"000001.tar is (cut short|no shard)|says no class"):
            open_rgbd(str(copied))
    shard.write_bytes(whole)
    samples = open_rgbd(str(copied))
    first = samples.files.index((shard, samples.files[len(samples) // 2][1]))
    shard.write_bytes(whole[: third + 700])  # while it is open
    broken = [i for i, (path, _) in enumerate(samples.files) if path == shard]
    assert first in broken
    samples.sample(broken[0])
    with pytest.raises(RGBDError, match=r"000001.tar is damaged or was replaced \(it ends at byte"):
        samples.sample(broken[1])
    shard.unlink()
    with pytest.raises(RGBDError, match="cannot be read"):
        samples.sample(broken[0])
    open_rgbd.cache_clear()
    with pytest.raises(RGBDError, match=r"000001.tar is missing, although .*shards.json names it"):
        open_rgbd(str(copied))


def test_an_unusable_picture_is_replaced_and_reported(copied: Path) -> None:
    cfg = make_config(copied)
    good = [which(rgbd_batch(cfg, step)) for step in range(2)]
    open_rgbd.cache_clear()
    shard = open_shards(copied, ("rgbd",))[0]
    data = bytearray(shard.path.read_bytes())
    for k in range(len(shard.names)):
        data[shard.offsets[k] + 512] ^= 255  # where the picture's file begins
    shard.path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"left out: .* in .*000000\.tar is missing or damaged"):
        found = [which(rgbd_batch(cfg, step)) for step in range(2)]
    assert found != good


def test_an_index_that_is_not_there_or_lies(packed: Path, copied: Path) -> None:
    index = (packed / "shards.json").read_bytes()
    said = json.loads(index)

    def changed(**entries: object) -> bytes:
        return json.dumps(
            {**said, "shards": [{**said["shards"][0], **entries}, *said["shards"][1:]]}
        ).encode()

    offsets = said["shards"][0]["offsets"]
    lies = [
        b"{",
        json.dumps({**said, "classes": ["z", "a"]}).encode(),
        json.dumps({**said, "classes": ["a"]}).encode(),
        json.dumps({**said, "classes": None}).encode(),
        changed(labels=[-1] * len(said["shards"][0]["labels"])),
        changed(labels=[0.0] * len(said["shards"][0]["labels"])),
        changed(labels=[]),
        changed(offsets=[*offsets[:-1], 10**15]),
        changed(offsets=[-1, *offsets[1:]]),
        changed(offsets=[offsets[1], offsets[0], *offsets[2:]]),
        changed(kind="other"),
        changed(kind="posed", bytes=1),
    ]
    for content in (None, *lies):
        (copied / "shards.json").unlink()
        if content is not None:
            (copied / "shards.json").write_bytes(content)
        open_rgbd.cache_clear()
        assert_same(open_rgbd(str(copied)), open_rgbd(str(packed)))
        assert (copied / "shards.json").read_bytes() == index


def test_whatever_bytes_there_are(packed: Path, tmp_path: Path) -> None:
    """A header with other bytes gives the sample, or an error that names the shard."""
    rng = random.Random(0)
    shard = open_shards(packed, ("rgbd",))[0]
    whole = shard.path.read_bytes()
    refused: list[str] = []
    for _ in range(150):
        data = bytearray(whole)
        begin = rng.choice(shard.offsets[:-1])
        for _ in range(rng.choice((1, 8))):
            data[begin + rng.randrange(512)] = rng.randrange(256)
        path = tmp_path / "0.tar"
        path.write_bytes(data)
        open_rgbd.cache_clear()
        try:
            samples = open_rgbd(str(path))
            for i in range(len(samples)):
                samples.sample(i)
        except RGBDError as error:
            refused.append(str(error))
    assert all("0.tar" in text for text in refused)
    assert len(refused) > 50
