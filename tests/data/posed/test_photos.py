"""Single pictures with alpha out of folders, curations, shards and collections."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastrecon.data.posed import OBJECT_ALPHA, CollectionError, open_photos
from fastrecon.data.shard_index import PHOTOS
from fastrecon.data.shards import ShardWriter, sample_bytes
from tests.data.posed import made_sets as made


def crop(path: Path, value: int, size: tuple[int, int] = (5, 3)) -> None:
    made.save(np.full((size[1], size[0], 4), value, np.uint8), path)


def test_a_folder_of_crops(tmp_path: Path) -> None:
    for k, name in enumerate(("b.png", "a.png", "deep/c.d.webp", ".hidden.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((3, 5, 4), 50 * k + 50, np.uint8)).save(path, lossless=True)
    (tmp_path / "photograph.jpg").write_bytes(b"not looked at")
    photos = open_photos(str(tmp_path))
    assert photos.names == ["a", "b", "deep/c.d"]
    assert len(photos) == 3
    rgba = photos.photo(0)
    assert (rgba.shape, rgba.dtype) == ((3, 5, 4), np.float32)
    assert rgba[0, 0] == pytest.approx([100 / 255] * 4)
    assert pickle.loads(pickle.dumps(photos)).photo(2)[0, 0, 0] == pytest.approx(150 / 255)
    assert OBJECT_ALPHA == 225 / 255
    assert open_photos(tmp_path, size=2).photo(1).shape == (1, 2, 4)
    with pytest.raises(IndexError):
        photos.photo(3)


def test_a_curation(tmp_path: Path) -> None:
    crop(tmp_path / "crops" / "street_7.png", 9)
    crop(tmp_path / "crops" / "unfinished_1.png", 9)
    (tmp_path / "sheet.png").write_bytes(b"")
    instances = [{"crop": "crops/street_7.png"}, {"crop": ""}]
    line = {"image": "street.jpg", "status": "ok", "reason": "", "instances": instances}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n" + '{"image": "half')
    photos = open_photos(tmp_path)
    assert photos.names == ["crops/street_7"]
    assert photos.photo(0).shape == (3, 5, 4)
    (tmp_path / "manifest.jsonl").write_text(json.dumps({**line, "instances": []}) + "\n")
    with pytest.raises(CollectionError, match="names no crop"):
        open_photos(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(CollectionError, match=r"manifest.jsonl is no manifest .*crops"):
        open_photos(tmp_path)


def test_a_curation_into_shards(tmp_path: Path) -> None:
    """Samples are a crop and the manifest's word about it."""
    writer = ShardWriter(tmp_path, PHOTOS)
    crop(tmp_path / "c.png", 7)
    fields = [("png", (tmp_path / "c.png").read_bytes()), ("json", b"{}")]
    writer.add("street_7", sample_bytes("street_7", fields))
    writer.finish()
    (tmp_path / "c.png").unlink()
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "000000.tar").rename(tmp_path / "out" / "shards" / "000000.tar")
    (tmp_path / "out" / "shards" / "000000.jsonl").write_text("{}\n")
    (tmp_path / "out" / "manifest.jsonl").write_text("{}\n")
    photos = open_photos(tmp_path / "out")
    assert photos.names == ["street_7"]
    assert photos.photo(0)[0, 0, 0] == pytest.approx(7 / 255)


def test_one_view_of_each_object(tmp_path: Path) -> None:
    made.gobjaverse(tmp_path / "a", 2)
    made.gobjaverse(tmp_path / "b", 1)
    photos = open_photos(tmp_path)
    assert photos.names == ["a", "b"]
    assert np.array_equal(photos.photo(0) * 255, made.rendered(made.cameras(2)[0]))


def test_bad_pictures(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="does not exist"):
        open_photos(tmp_path / "nowhere")
    with pytest.raises(CollectionError, match="no pictures with alpha"):
        open_photos(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"GIF89a")
    photos = open_photos(tmp_path)
    with pytest.raises(CollectionError, match=r"a.png has no alpha .* fastrecon curate"):
        photos.photo(0)
    with pytest.raises(CollectionError, match=r"b.png is missing or damaged"):
        photos.photo(1)
    (tmp_path / "b.png").unlink()
    with pytest.raises(CollectionError, match=r"b.png is missing or damaged"):
        photos.photo(1)
    crop(tmp_path / "a.tif", 3)
    with pytest.raises(CollectionError, match="differ by their ending only"):
        open_photos(tmp_path)
    with pytest.raises(CollectionError, match="is no tar file"):
        open_photos(tmp_path / "a.tif")
    (tmp_path / "a.tif").unlink()
    with pytest.raises(ValueError, match="size must be at least 0"):
        open_photos(tmp_path, size=-1)
