from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from eatnas_db.errors import DataError
from eatnas_training.data.folder_content import run_to_end
from eatnas_training.data.listing_cache import ImageFiles
from eatnas_training.data.streamed_files import StreamedFiles, forget_listing, listing_steps
from eatnas_training.data.streaming import open_streamed

LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for label in ("cat", "dög", "deep"):
            folder = tmp_path / "data" / part / label / ("below" if label == "deep" else ".")
            folder.mkdir(parents=True)
            for number in range(12):
                PIL.Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.png")
    settle(tmp_path / "data")
    return tmp_path / "data"


def settle(root: Path) -> None:
    """Give all folders an old modification time, because listings of recently changed folders are not stored."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, LONG_AGO)


def listed(root: Path, *, reuse: bool = True, final_model: bool = False, **changes: Any) -> StreamedFiles:
    data = {"name": "ImageNet", "root": str(root), "resolution": 8, "cache": str(root.parent / "cache"), **changes}
    files = run_to_end(listing_steps(data, reuse=reuse, final_model=final_model, min_files=1))
    assert files is not None
    return files


def stored(root: Path) -> list[Path]:
    return list((root.parent / "cache" / "images").glob("listing-*.npz"))


def assert_same(one: StreamedFiles, other: StreamedFiles) -> None:
    assert (one.digest, one.state, one.side, one.classes) == (other.digest, other.state, other.side, other.classes)
    for name in ("train", "held_out"):
        a, b = getattr(one, name), getattr(other, name)
        assert isinstance(a, ImageFiles)
        assert a.paths == b.paths
        for left, right in ((a.labels, b.labels), (a.times.sizes, b.times.sizes), (a.times.modified, b.times.modified)):
            assert np.array_equal(left, right)
            assert left.dtype == right.dtype == np.int64


@pytest.mark.parametrize("final_model", [False, True])
def test_stored_listing_equals_the_first(root: Path, final_model: bool) -> None:
    first = listed(root, reuse=False, final_model=final_model)
    (file,) = stored(root)
    os.utime(root / "train" / "cat" / "3.png", LONG_AGO)  # detected when the file is read
    assert_same(listed(root, final_model=final_model), first)
    file.write_bytes(file.read_bytes()[:500])
    assert listed(root, final_model=final_model).state != first.state


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "class", "folder", "part", "split"])
def test_changed_folder_is_listed_again(root: Path, change: str) -> None:
    first, changes = listed(root), {}
    path = root / "train" / "deep" / "below" / "3.png"
    if change == "added":
        shutil.copy2(path, path.with_name("new.png"))
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("z.png"))
    elif change == "class":
        (root / "train" / "cat").rename(root / "train" / "cow")
    elif change == "folder":
        (root / "train" / "cat" / "more").symlink_to(shutil.copytree(root / "val" / "cat", root.parent / "more"))
    elif change == "part":
        shutil.rmtree(root / "train")
        with pytest.raises(DataError, match="no class folders"):
            listed(root)
        return
    else:
        changes = {"split_seed": 1}
    assert listed(root, **changes).digest != first.digest


def test_folder_that_has_just_changed_is_not_stored(root: Path) -> None:
    (root / "train" / "cat").touch()
    listed(root)
    assert stored(root) == []


def test_overwritten_file_is_found_and_the_listing_forgotten(root: Path) -> None:
    first = listed(root)
    path = root / "train" / "cat" / "3.png"
    path.write_bytes(path.read_bytes() + b"x")
    assert listed(root).state == first.state
    data = open_streamed(listed(root), "cpu", 1)
    part = data.train if str(path) in first.train.paths else data.held_out
    with pytest.raises(DataError, match=r"3\.png has changed"):
        part.between(0, len(part.labels))
    forget_listing({"name": "ImageNet", "root": str(root), "resolution": 8, "cache": str(root.parent / "cache")})
    assert stored(root) == []
    assert listed(root).state != first.state


def test_small_folder_is_not_stored(root: Path) -> None:
    data = {"name": "ImageNet", "root": str(root), "resolution": 8, "cache": str(root.parent / "cache")}
    run_to_end(listing_steps(data))
    assert stored(root) == []
