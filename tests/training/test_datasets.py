from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eatnas_db.errors import DataError
from eatnas_training import datasets

DIGITS = {"name": "digits"}


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def write_fashion(folder: Path, count: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(count * 28 * 28).reshape(count, 28, 28) % 256
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(idx(images))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))


def test_the_digits_are_all_there_and_their_test_part_is_never_seen() -> None:
    loaded = datasets.load_training(DIGITS)
    test = datasets.load_test(DIGITS)
    assert loaded.train.images.shape == (1150, 1, 8, 8)
    assert loaded.validation.images.shape == (287, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.images.max() == 255
    tested = {image.tobytes() for image in test.images}
    seen = [*loaded.train.images, *loaded.validation.images]
    assert sum(image.tobytes() in tested for image in seen) == 0


def test_fewer_train_images_are_a_subset_and_leave_validation_as_it_is() -> None:
    train, validation = datasets.split(1000, {**DIGITS, "split_seed": 3})
    fewer, same = datasets.split(1000, {**DIGITS, "split_seed": 3, "train_images": 100})
    assert (len(train), len(validation), len(fewer)) == (800, 200, 100)
    assert set(fewer.tolist()) < set(train.tolist())
    assert validation.tolist() == same.tolist()
    assert not set(train.tolist()) & set(validation.tolist())


def test_another_split_seed_gives_another_split_and_another_digest() -> None:
    first = datasets.load_training(DIGITS)
    again = datasets.load_training(DIGITS)
    other = datasets.load_training({**DIGITS, "split_seed": 1})
    assert first.digest == again.digest != other.digest


def test_more_images_than_there_are_is_said_with_the_numbers() -> None:
    with pytest.raises(DataError, match=r"1400 train and 287 validation .* 1437"):
        datasets.load_training({**DIGITS, "train_images": 1400})


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean FashionMNIST"):
        datasets.load_training({"name": "fashion-mnist"})


@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_idx_files_are_read_where_they_lie(tmp_path: Path, below: str) -> None:
    write_fashion(tmp_path / below)
    loaded = datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})
    assert loaded.train.images.shape == (16, 1, 28, 28)
    assert len(loaded.validation.labels) == 4


def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte.*data prepare MNIST"):
        datasets.load_training({"name": "MNIST", "root": str(tmp_path)})


@pytest.mark.parametrize("keep", [0, 7, 300])
def test_a_truncated_gz_file_is_named(tmp_path: Path, keep: int) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:]])
def test_a_raw_file_of_the_wrong_size_or_magic_is_named(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    write_fashion(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})


def test_images_without_a_folder_ask_for_one() -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        datasets.load_training({"name": "CIFAR10", "root": None})


def test_a_folder_of_images_is_read_resized(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(5):
            picture = pillow.fromarray(np.full((20, 30, 3), 40 * number, np.uint8))
            picture.save(tmp_path / label / f"{number}.png")
    data = {"name": "ImageFolder", "root": str(tmp_path), "resolution": 8}
    loaded = datasets.load_training(data)
    assert loaded.train.images.shape == (8, 3, 8, 8)
    assert loaded.train.classes == 2
    assert set(np.unique(loaded.train.images)) <= {0, 40, 80, 120, 160}


def test_resizing_keeps_flat_images_flat_and_averages_when_shrinking() -> None:
    flat = np.full((2, 1, 28, 28), 77, np.uint8)
    assert (datasets.resized(flat, 8) == 77).all()
    assert (datasets.resized(flat, 32) == 77).all()
    board = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)[None, None]
    assert np.abs(datasets.resized(board, 4).astype(int) - 127).max() <= 2


def prepare(command: str, data: object = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eatnas_training.prepare", command],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_prepare_describes_the_digits_and_lists_the_known_sets() -> None:
    described = json.loads(prepare("describe", DIGITS).stdout)
    assert described["train_images"] == 1150
    assert (described["resolution"], described["channels"], described["classes"]) == (8, 1, 10)
    assert len(described["data_digest"]) == 64
    assert [known["name"] for known in json.loads(prepare("list").stdout)] == list(datasets.KNOWN)


def test_prepare_says_a_mistake_in_one_line() -> None:
    answer = prepare("describe", {"name": "digit"})
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "did you mean digits" in answer.stderr


def test_describing_the_digits_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from eatnas_training import prepare; prepare.describe({'name': 'digits'});"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'pydantic') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"
