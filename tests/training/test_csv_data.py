"""A CSV file can list the images of a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from eatnas_db.errors import DataError
from eatnas_training import prepare
from eatnas_training.data import arrays, datasets, streamed_files
from eatnas_training.data.class_names import list_class_names
from eatnas_training.data.streamed_files import list_streamed_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with twenty images, four of which are test images, and a CSV file that lists all images."""
    rows = ["path,label,split"]
    (tmp_path / "images").mkdir()
    for number in range(20):
        PIL.Image.new("RGB", (9, 8), (number, 50, 0)).save(tmp_path / "images" / f"{number}.png")
        rows.append(f"images/{number}.png,{'cat' if number % 2 else 'dog'},{'test' if number >= 16 else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def section(folder: Path, **keys: Any) -> dict[str, Any]:
    return {"name": f"csv:{folder}/labels.csv", "resolution": 8, "cache": str(folder / "cache"), **keys}


def rewrite(folder: Path, old: str, new: str) -> None:
    file = folder / "labels.csv"
    file.write_text(file.read_text().replace(old, new))


def test_files_of_a_list_are_read_with_their_labels(folder: Path) -> None:
    data = datasets.load_training(section(folder))
    assert (len(data.train.labels), len(data.validation.labels)) == (13, 3)
    for part in (data.train, data.validation):
        assert (part.images[:, 0, 0, 0] % 2 == 1 - part.labels).all()
    final = datasets.load_final(section(folder))
    assert final.test.images[:, 0, 0, 0].tolist() == [16, 17, 18, 19]
    assert final.search_digest == data.digest
    assert list_class_names(section(folder)) == ("cat", "dog")


def test_list_has_the_same_images_as_the_folder(folder: Path) -> None:
    for number in range(16):
        target = folder / "tree" / ("cat" if number % 2 else "dog")
        target.mkdir(parents=True, exist_ok=True)
        os.link(folder / "images" / f"{number}.png", target / f"{number:02}.png")
    tree = datasets.load_training({"name": "ImageFolder", "root": str(folder / "tree"), "resolution": 8})
    listed = datasets.load_training(section(folder))
    assert sorted(map(bytes, np.concatenate([tree.train.images, tree.validation.images]))) == sorted(
        map(bytes, np.concatenate([listed.train.images, listed.validation.images]))
    )


def test_large_list_is_streamed_and_changes_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_files, "RESIDENT_BYTES", 100)
    files = list_streamed_files(section(folder, stratify=True))
    assert files is not None
    assert np.bincount(files.train.labels).tolist() in ([6, 7], [7, 6])
    rewrite(folder, "2.png,dog", "2.png,cat")
    changed = list_streamed_files(section(folder, stratify=True))
    assert changed is not None
    assert files.state.describe_change(changed.state) is not None


def test_relative_and_absolute_paths_give_one_digest(folder: Path) -> None:
    before = datasets.load_training(section(folder)).digest
    rewrite(folder, "images/3.png", f"{folder}/images/3.png")
    assert datasets.load_training(section(folder)).digest == before
    relative = section(folder, name="csv:labels.csv", root=str(folder))
    assert datasets.load_training(relative).digest == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,label", "a,b", r"no column for the path among a, b, split; .*data\.options"),
        ("3.png,cat", "3.png,", r"line 5 has no label"),
        ("images/3.png", "", r"line 5 has no path"),
        ("images/3.png", "images/3.png\0", r"line 5: the path contains a NUL character"),
        ("images/3.png", "images/./2.png", r"line 5: images/2\.png is already in line 4"),
        ("cat", "dog", "only the label 'dog' for training"),
        ("17.png,cat", "17.png,bird", "line 19: no training image has the label 'bird'"),
        ("cat,test", "cat,tset", "the split is 'tset'; write train or test"),
        ("images/3.png", '"images/3.png', "is not a CSV file"),
        ("images/3.png", "images/away.png", r"away\.png cannot be read: No such file"),
    ],
)
def test_faults_of_a_list_are_named(folder: Path, old: str, new: str, message: str) -> None:
    rewrite(folder, old, new)
    with pytest.raises(DataError, match=message):
        datasets.load_final(section(folder))


def test_missing_and_binary_lists_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"away\.csv cannot be read"):
        datasets.load_training(section(folder, name=f"csv:{folder}/away.csv"))
    with pytest.raises(DataError, match="not a text file in UTF-8"):
        datasets.load_training(section(folder, name=f"csv:{folder}/images/1.png"))
    with pytest.raises(DataError, match="write csv:PATH"):
        datasets.load_training(section(folder, name="csv:"))


def test_columns_of_other_names_are_options(folder: Path) -> None:
    before = datasets.load_training(section(folder)).digest
    rewrite(folder, "path,label,split", "where,what,split")
    options = {"path": "where", "label": "what"}
    assert datasets.load_training(section(folder, options=options)).digest == before


def test_numeric_labels_are_classes_in_numeric_order(folder: Path) -> None:
    rewrite(folder, "cat", "10")
    rewrite(folder, "dog", "9")
    assert list_class_names(section(folder)) == ("9", "10")


def test_unreadable_file_of_a_list_is_skipped_on_demand(folder: Path) -> None:
    (folder / "images" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png is not a readable image"):
        prepare.describe(section(folder))
    described = prepare.describe(section(folder, on_unreadable="skip"))
    assert described["train_images"] + described["validation_images"] == 15
    assert "images/3.png" in described["notes"][0]
    prepared = prepare.download(section(folder))
    assert prepared["folder"]["unreadable"][0]["path"] == "images/3.png"
    assert prepared["folder"]["images_by_class"][0] == {"class": "cat", "images": 8, "test_images": 2}


def test_resident_limit_is_the_same_everywhere() -> None:
    assert streamed_files.RESIDENT_BYTES == datasets.RESIDENT_BYTES == arrays.RESIDENT_BYTES
