"""A spec can name data sets of torchvision and folders of Parquet files."""

from __future__ import annotations

import bz2
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
from torchvision.datasets import GTSRB, USPS

from eatnas_db.errors import DataError
from eatnas_training import prepare
from eatnas_training.data import datasets
from eatnas_training.data.class_names import list_class_names

CLASSES = ["cat", "dog"]


@pytest.fixture
def digits_of_usps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write files in the format of USPS, and make torchvision accept the digests of these files."""
    import hashlib

    for part, count in (("train", 30), ("test", 10)):
        rows = [
            f"{number % 10 + 1} " + " ".join(f"{place + 1}:{(number * place % 200) / 100 - 1}" for place in range(256))
            for number in range(count)
        ]
        content = bz2.compress(("\n".join(rows) + "\n").encode())
        (url, file, _) = USPS.split_list[part]
        (tmp_path / file).write_bytes(content)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(USPS.split_list, part, [url, file, digest])
    return {"name": "torchvision:USPS", "root": str(tmp_path)}


@pytest.fixture
def signs(tmp_path: Path) -> dict[str, Any]:
    """Write files in the format of GTSRB: images of several sizes, and the test labels in a table."""
    top = tmp_path / "gtsrb"
    for label in range(3):
        folder = top / "GTSRB" / "Training" / f"{label:05}"
        folder.mkdir(parents=True)
        for number in range(6):
            PIL.Image.new("RGB", (9 + number, 9), (20 * number, 80 * label, 0)).save(folder / f"{number}.ppm")
    images = top / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number in range(4):
        PIL.Image.new("RGB", (9, 9), (0, 0, number)).save(images / f"{number}.ppm")
        lines.append(f"{number}.ppm;9;9;0;0;8;8;{number % 3}")
    (top / "GT-final_test.csv").write_text("\n".join(lines))
    return {"name": "torchvision:GTSRB", "root": str(tmp_path), "resolution": 8}


def test_class_with_train_argument_is_read(digits_of_usps: dict[str, Any]) -> None:
    data = datasets.load_training(digits_of_usps)
    assert data.train.images.shape == (24, 1, 16, 16)
    final = datasets.load_final(digits_of_usps)
    assert (len(final.train.labels), len(final.test.labels)) == (30, 10)
    reference = USPS(digits_of_usps["root"])
    train, _ = datasets.split(30, digits_of_usps)
    for position, index in enumerate(train):
        image, label = reference[int(index)]
        assert (data.train.labels[position], data.train.images[position, 0].tolist()) == (
            label,
            np.array(image).tolist(),
        )


def test_class_with_split_argument_is_read(signs: dict[str, Any]) -> None:
    data = datasets.load_training(signs)
    assert (data.train.images.shape[1:], data.train.classes) == ((3, 8, 8), 3)
    assert len(datasets.load_final(signs).test.labels) == len(GTSRB(signs["root"], "test")) == 4
    assert list_class_names(signs, 3) == ("0", "1", "2")
    described = prepare.download(signs)
    assert (described["train_images"], described["validation_images"], described["test_images"]) == (15, 3, 4)


def test_class_without_parts_has_no_test_part(tmp_path: Path) -> None:
    for label in ("Forest", "River"):
        folder = tmp_path / "eurosat" / "2750" / label
        folder.mkdir(parents=True)
        for number in range(5):
            PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    data = {"name": "torchvision:EuroSAT", "root": str(tmp_path)}
    assert len(datasets.load_training(data).train.labels) == 8
    assert list_class_names(data) == ("Forest", "River")
    with pytest.raises(DataError, match="torchvision:EuroSAT has no test part"):
        datasets.load_final(data)


def test_options_are_arguments_of_the_class(tmp_path: Path) -> None:
    scipy.io.savemat(
        tmp_path / "extra_32x32.mat",
        {"X": np.arange(32 * 32 * 3 * 10).reshape(32, 32, 3, 10).astype(np.uint8), "y": np.arange(10)[:, None] % 3},
    )
    data = {"name": "torchvision:SVHN", "root": str(tmp_path), "options": {"split": "extra"}}
    with pytest.raises(DataError, match=r"cannot be opened in .*not found or corrupted.*data prepare torchvision:SVHN"):
        datasets.load_training(data)
    with pytest.raises(DataError, match="torchvision:SVHN has no option 'spilt'; did you mean split"):
        datasets.load_training({**data, "options": {"spilt": "extra"}})


def test_grey_images_become_colours_on_demand(digits_of_usps: dict[str, Any]) -> None:
    images = datasets.load_training({**digits_of_usps, "options": {"channels": 3}}).train.images
    assert images.shape[1] == 3
    assert (images[:, 0] == images[:, 2]).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Flower102", "torchvision has no data set 'Flower102'; did you mean Flowers102"),
        ("", "torchvision has no data set ''"),
        ("Flowers102", "cannot be opened in .*Dataset not found.*eatnas-db data prepare torchvision:Flowers102 --root"),
        ("CocoDetection", "cannot be opened in .*TypeError"),
        ("VisionDataset", "VisionDataset"),
        ("STL10", "cannot be opened in .*not found or corrupted"),
    ],
)
def test_unknown_and_missing_classes_are_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        datasets.load_training({"name": f"torchvision:{name}", "root": str(tmp_path)})


def png(number: int) -> bytes:
    content = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (number, 50, 0)).save(content, "PNG")
    return content.getvalue()


def write_parquet(file: Path, count: int, labels: pyarrow.Array | None = None, *, features: bool = True) -> None:
    """Write a file as Hugging Face's `datasets` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = pyarrow.array([{"bytes": png(number), "path": f"{number}.png"} for number in range(count)])
    if labels is None:
        labels = pyarrow.array([number % 2 for number in range(count)], pyarrow.int64())
    table = pyarrow.table({"photo" if features else "image": images, "kind" if features else "label": labels})
    if features:
        info = {"info": {"features": {"photo": {"_type": "Image"}, "kind": {"names": CLASSES, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pyarrow.parquet.write_table(table, file, row_group_size=7)


@pytest.fixture
def beans(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "beans" / "data" / "train-00000-of-00002.parquet", 10)
    write_parquet(tmp_path / "beans" / "data" / "train-00001-of-00002.parquet", 10)
    write_parquet(tmp_path / "beans" / "data" / "test-00000-of-00001.parquet", 4)
    return tmp_path / "beans"


def section(folder: Path, **keys: Any) -> dict[str, Any]:
    return {"name": f"hf:{folder}", "root": "/nowhere", **keys}


def test_parquet_folder_is_read_with_its_class_names(beans: Path) -> None:
    data = datasets.load_training(section(beans))
    assert data.train.images.shape == (16, 3, 8, 8)
    values = np.concatenate([data.train.images, data.validation.images])[:, 0, 0, 0]
    assert sorted(values.tolist()) == sorted([*range(10), *range(10)])
    assert list_class_names(section(beans)) == ("cat", "dog")
    assert datasets.load_final(section(beans)).test.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int32", "string")])
def test_texts_are_labels_too(tmp_path: Path, kind: pyarrow.DataType) -> None:
    labels = pyarrow.array([("b", "a")[number % 2] for number in range(10)]).cast(kind)
    write_parquet(tmp_path / "one.parquet", 10, labels, features=False)
    data = datasets.load_training(section(tmp_path))
    assert (data.train.images[:, 0, 0, 0] % 2 == 1 - data.train.labels).all()
    assert list_class_names(section(tmp_path)) == ("a", "b")
    with pytest.raises(DataError, match="has no test part"):
        datasets.load_final(section(tmp_path))


def test_missing_labels_and_cells_are_named(tmp_path: Path) -> None:
    labels = pyarrow.array([None if number == 3 else number % 2 for number in range(10)], pyarrow.int64())
    write_parquet(tmp_path / "train.parquet", 10, labels, features=False)
    with pytest.raises(DataError, match=r"item 3 of hf:.* cannot be used: it has no label"):
        datasets.load_training(section(tmp_path))
    assert datasets.load_training(section(tmp_path, on_unreadable="skip")).train.skipped == ("item 3",)
    table = pyarrow.table({"image": [b"no image", *map(png, range(9))], "label": [0, 1] * 5})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"item 0 .*cannot identify image file"):
        datasets.load_training(section(tmp_path))


def test_faults_of_a_parquet_folder_are_named(tmp_path: Path, beans: Path) -> None:
    for name, message in (
        ("hf:", "write hf:PATH"),
        (f"hf:{tmp_path}/away", "away is not a folder; correct the path"),
        (f"hf:{beans.parent}/beans/data/away", "is not a folder"),
    ):
        with pytest.raises(DataError, match=message):
            datasets.load_training({"name": name, "root": "/nowhere"})
    with pytest.raises(DataError, match="no option 'column'"):
        datasets.load_training(section(beans, options={"column": "x"}))
    with pytest.raises(DataError, match=r"no column for the label among photo, kind; set data\.options"):
        datasets.load_training(section(beans, options={"label": "x"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.parquet file is in"):
        datasets.load_training(section(tmp_path / "empty"))
    (beans / "data" / "train-00001-of-00002.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is not a readable Parquet file"):
        datasets.load_training(section(beans))


def test_several_configurations_must_be_chosen(beans: Path) -> None:
    write_parquet(beans / "small" / "train-00000-of-00001.parquet", 10)
    with pytest.raises(
        DataError, match=r"several folders in .* contain files of the same part: data, small; write one of them"
    ):
        datasets.load_training(section(beans))
    assert len(datasets.load_training(section(beans / "small")).train.labels) == 8


def test_missing_extra_is_named(beans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # imitates a missing package
    with pytest.raises(DataError, match=r"hf: needs pyarrow .*; pip install 'eatnas-db\[hf\]'"):
        datasets.load_training(section(beans))
