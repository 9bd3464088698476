from __future__ import annotations

import gzip
import io
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import scipy.io

from eatnas_db.errors import DataError
from eatnas_training.data import datasets
from eatnas_training.data.arrays import resize_images
from eatnas_training.data.catalog import DATA_SETS

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


def test_digits_split_into_disjoint_parts() -> None:
    loaded = datasets.load_training(DIGITS)
    test = datasets.load_test(DIGITS)
    assert loaded.train.images.shape == (1150, 1, 8, 8)
    assert loaded.validation.images.shape == (287, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.images.max() == 255
    test_images = {image.tobytes() for image in test.images}
    other_images = [*loaded.train.images, *loaded.validation.images]
    assert not any(image.tobytes() in test_images for image in other_images)


def test_fewer_training_images_are_a_subset() -> None:
    train, validation = datasets.split(1000, {**DIGITS, "split_seed": 3})
    fewer, same = datasets.split(1000, {**DIGITS, "split_seed": 3, "train_images": 100})
    assert (len(train), len(validation), len(fewer)) == (800, 200, 100)
    assert set(fewer.tolist()) < set(train.tolist())
    assert validation.tolist() == same.tolist()
    assert not set(train.tolist()) & set(validation.tolist())


def test_split_seed_changes_the_digest() -> None:
    first = datasets.load_training(DIGITS)
    again = datasets.load_training(DIGITS)
    other = datasets.load_training({**DIGITS, "split_seed": 1})
    assert first.digest == again.digest != other.digest


def test_too_many_images_are_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match=r"1400 training and 287 validation .* 1437"):
        datasets.load_training({**DIGITS, "train_images": 1400})


def test_unknown_name_is_refused_with_the_most_similar() -> None:
    with pytest.raises(DataError, match="did you mean FashionMNIST"):
        datasets.load_training({"name": "fashion-mnist"})


@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_idx_files_are_found_in_both_folders(tmp_path: Path, below: str) -> None:
    write_fashion(tmp_path / below)
    loaded = datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})
    assert loaded.train.images.shape == (16, 1, 28, 28)
    assert len(loaded.validation.labels) == 4


def test_missing_idx_file_is_reported_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte.*data prepare MNIST"):
        datasets.load_training({"name": "MNIST", "root": str(tmp_path)})


@pytest.mark.parametrize("keep", [0, 7, 300])
def test_truncated_gz_file_is_reported(tmp_path: Path, keep: int) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:]])
def test_idx_file_of_wrong_size_or_magic_is_reported(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    write_fashion(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})


def test_missing_root_is_reported() -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        datasets.load_training({"name": "CIFAR10", "root": None})


def test_resizing_averages_areas() -> None:
    flat = np.full((2, 1, 28, 28), 77, np.uint8)
    assert (resize_images(flat, 8) == 77).all()
    assert (resize_images(flat, 32) == 77).all()
    board = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)[None, None]
    assert np.abs(resize_images(board, 4).astype(int) - 127).max() <= 2


CIFAR = {
    "CIFAR10": (
        "cifar-10-batches-py",
        [f"data_batch_{n}" for n in range(1, 6)],
        "test_batch",
        "batches.meta",
        "labels",
    ),
    "CIFAR100": ("cifar-100-python", ["train"], "test", "meta", "fine_labels"),
}


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Pickles like Python 2, which wrote CIFAR's files: strings are bytes without an encoding."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_text(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar(root: Path, name: str, each: int = 6) -> None:
    folder, train, test, meta, key = CIFAR[name]
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number, file in enumerate([*train, test]):
        pixels = np.full((each, 3072), 0, np.uint8)
        pixels[:, :1024], pixels[:, 1024:2048], pixels[:, 2048:] = 10 * number, 100, np.arange(1024) % 256
        batch = {"data": pixels, key: [(number + i) % 10 for i in range(each)], "filenames": ["a.png"] * each}
        if name == "CIFAR100":
            batch["coarse_labels"] = [0] * each
        (root / folder / file).write_bytes(python2_pickle(batch))
    names = {"label_names" if name == "CIFAR10" else "fine_label_names": ["frog"]}
    (root / folder / meta).write_bytes(python2_pickle(names))


def in_file_order(data: datasets.TrainingData, spec: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of both parts in the order of the files."""
    train, validation = datasets.split(len(data.train.labels) + len(data.validation.labels), spec)
    order = np.argsort(np.concatenate([train, validation]))
    images = np.concatenate([data.train.images, data.validation.images])[order]
    return images, np.concatenate([data.train.labels, data.validation.labels])[order]


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("inside", [False, True])
def test_cifar_pickles_of_python_2_are_read(tmp_path: Path, name: str, inside: bool) -> None:
    write_cifar(tmp_path, name)
    spec = {"name": name, "root": str(tmp_path / CIFAR[name][0] if inside else tmp_path)}
    loaded = datasets.load_training(spec)
    images, labels = in_file_order(loaded, spec)
    batches = len(CIFAR[name][1])
    assert images.shape == (6 * batches, 3, 32, 32)
    assert images[-1, :, 1, 2].tolist() == [10 * (batches - 1), 100, 34]
    assert labels.tolist() == [(number + i) % 10 for number in range(batches) for i in range(6)]
    assert loaded.train.classes == DATA_SETS[name].classes
    assert loaded.digest == datasets.load_training(spec).digest
    assert datasets.load_test(spec).images[0, 0, 0, 0] == 10 * batches
    assert datasets.load_training({**spec, "resolution": 16}).train.images.shape[1:] == (3, 16, 16)


class CallsFunction:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickle_that_calls_a_function_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, "CIFAR100")
    path = tmp_path / "cifar-100-python" / "train"
    path.write_bytes(pickle.dumps({"data": CallsFunction(tmp_path / "called"), "fine_labels": []}))
    with pytest.raises(DataError, match=r"train is not a batch of CIFAR100 \(it would call .*data prepare CIFAR100"):
        datasets.load_training({"name": "CIFAR100", "root": str(tmp_path)})
    assert not (tmp_path / "called").exists()


def cifar_batch(**changes: Any) -> bytes:
    batch = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
    return python2_pickle({**batch, **changes})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80\x02}q\x00(",
        cifar_batch()[:-2000],
        python2_pickle([1, 2]),
        python2_pickle({"labels": [0]}),
        cifar_batch(data=np.zeros((4, 3072), np.float32)),
        cifar_batch(data=np.zeros((4, 1000), np.uint8)),
        cifar_batch(labels=[0, 1, 2]),
        cifar_batch(labels=[0, 1, 2, 10]),
        cifar_batch(labels=[0, 1, 2, -1]),
        cifar_batch(labels=["a", "b", "c", "d"]),
    ],
)
def test_damaged_cifar_batch_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    write_cifar(tmp_path, "CIFAR10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=r"^[^\n]*data_batch_3 [^\n]*$"):
        datasets.load_training({"name": "CIFAR10", "root": str(tmp_path)})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("CIFAR10", "cifar-10-batches-py/data_batch_1"),
        ("CIFAR100", "cifar-100-python/train"),
        ("SVHN", "SVHN/train_32x32.mat"),
        ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
    ],
)
@pytest.mark.parametrize("root", [".", "nowhere"])
def test_missing_file_or_folder_is_reported_with_a_remedy(tmp_path: Path, name: str, file: str, root: str) -> None:
    with pytest.raises(DataError) as raised:
        datasets.load_training({"name": name, "root": str(tmp_path / root)})
    folder, _, last = file.rpartition("/")
    assert f"no {last} in {tmp_path / root / folder}" in str(raised.value)
    assert f"eatnas-db data prepare {name}" in str(raised.value)


def write_svhn(folder: Path, count: int = 12, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(32 * 32 * 3 * count).reshape(32, 32, 3, count) % 251
    content = {"X": images.astype(np.uint8), "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None], **changes}
    for part in ("train", "test"):
        scipy.io.savemat(folder / f"{part}_32x32.mat", content, do_compression=True)
    return folder / "train_32x32.mat"


@pytest.mark.parametrize("below", [".", "SVHN"])
def test_svhn_label_10_is_read_as_0(tmp_path: Path, below: str) -> None:
    write_svhn(tmp_path / below)
    spec = {"name": "SVHN", "root": str(tmp_path)}
    images, labels = in_file_order(datasets.load_training(spec), spec)
    assert images.shape == (12, 3, 32, 32)
    assert images[5, 2, 7, 9] == (((7 * 32 + 9) * 3 + 2) * 12 + 5) % 251
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert len(datasets.load_test(spec).labels) == 12


@pytest.mark.parametrize(
    "damage", ["cut", "garbage", "empty", "no images", "fewer labels", "wrong label", "wrong type"]
)
def test_damaged_svhn_file_is_reported_in_one_line(tmp_path: Path, damage: str) -> None:
    changes: dict[str, Any] = {
        "no images": {"X": np.zeros(3)},
        "fewer labels": {"y": np.ones((11, 1), np.uint8)},
        "wrong label": {"y": np.full((12, 1), 20, np.uint8)},
        "wrong type": {"X": np.zeros((32, 32, 3, 12))},
    }
    path = write_svhn(tmp_path, **changes.get(damage, {}))
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"x" * 999, "empty": b""}.get(damage, content))
    with pytest.raises(DataError, match=r"^[^\n]*train_32x32.mat [^\n]*$"):
        datasets.load_training({"name": "SVHN", "root": str(tmp_path)})


@pytest.mark.parametrize("labels", [np.arange(19) % 10, np.arange(20) % 11])
def test_invalid_idx_labels_are_reported(tmp_path: Path, labels: np.ndarray) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataError, match=r"^[^\n]*train-labels-idx1-ubyte has [^\n]*labels [^\n]*$"):
        datasets.load_training({"name": "FashionMNIST", "root": str(tmp_path)})


def test_idx_images_and_labels_are_read_unchanged(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    spec = {"name": "FashionMNIST", "root": str(tmp_path)}
    images, labels = in_file_order(datasets.load_training(spec), spec)
    assert images.ravel().tolist() == [value % 256 for value in range(20 * 28 * 28)]
    assert labels.tolist() == [number % 10 for number in range(20)]


def write_folder(root: Path, each: int = 5, side: int = 20) -> None:
    for label, word in enumerate(("cat", "dog")):
        (root / word).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = np.full((side, side + 10, 3), 40 * number, np.uint8)
            pixels[:, :, 0] = 100 * label
            PIL.Image.fromarray(pixels).save(root / word / f"{number}.{'png' if number else 'jpeg'}")


@pytest.mark.parametrize("below", [".", "train"])
def test_image_folder_has_a_class_for_each_folder(tmp_path: Path, below: str) -> None:
    write_folder(tmp_path / below)
    (tmp_path / below / "dog" / ".hidden").write_text("no image")
    (tmp_path / below / ".cache").mkdir()
    (tmp_path / below / "notes.txt").write_text("no folder")
    PIL.Image.new("L", (8, 8), 7).save(tmp_path / below / "dog" / "9.png")
    spec = {"name": "ImageFolder", "root": str(tmp_path), "resolution": 8}
    loaded = datasets.load_training(spec)
    images, labels = in_file_order(loaded, spec)
    assert labels.tolist() == [0] * 5 + [1] * 6
    assert loaded.train.classes == 2
    assert images[3, :, 0, 0].tolist() == [0, 120, 120]
    assert images[9, :, 7, 7].tolist() == [100, 160, 160]
    assert images[10, :, 4, 4].tolist() == [7, 7, 7]
    assert loaded.digest == datasets.load_training(spec).digest


def test_test_images_come_from_the_val_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    spec = {"name": "ImageFolder", "root": str(tmp_path), "resolution": 8}
    with pytest.raises(DataError, match="val has no class folders"):
        datasets.load_test(spec)
    write_folder(tmp_path / "val", each=1)
    assert len(datasets.load_test(spec).labels) == 2
    assert len(datasets.load_training(spec).train.labels) == 8
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match="train has no class folders"):
        datasets.load_training(spec)


@pytest.mark.parametrize("content", [b"", b"no image", "cut.png", "cut.jpeg"])
def test_unreadable_image_is_reported_in_one_line(tmp_path: Path, content: bytes | str) -> None:
    write_folder(tmp_path)
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        whole = tmp_path / content
        PIL.Image.fromarray(noise).save(whole)
        content = whole.read_bytes()[:2000]
    (tmp_path / "cat" / "2.png").write_bytes(content)
    with pytest.raises(DataError, match=r"^[^\n]*2\.png is not a readable image \([^\n]*; replace or delete it$"):
        datasets.load_training({"name": "ImageFolder", "root": str(tmp_path), "resolution": 8})


def test_incomplete_image_folder_is_reported(tmp_path: Path) -> None:
    spec = {"name": "ImageFolder", "root": str(tmp_path / "data")}
    with pytest.raises(DataError, match=r"no class folders; put images into .*/CLASS/"):
        datasets.load_training(spec)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="hold no files"):
        datasets.load_training(spec)
    write_folder(tmp_path / "data")
    with pytest.raises(DataError, match=r"set data\.resolution"):
        datasets.load_training(spec)


def test_describing_the_digits_imports_no_heavy_package() -> None:
    code = (
        "import sys; from eatnas_training import prepare; prepare.describe({'name': 'digits'});"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'pydantic') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"
