"""Read the file formats of the built-in data sets. This module needs only NumPy, and SciPy for SVHN.

Functions that find a damaged file raise a `DataError` that names the file and the remedy.
"""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import DataError
from eatnas_training.data.arrays import Bytes, Images, Integers
from eatnas_training.data.catalog import DIGITS_IMAGES, DIGITS_TEST_IMAGES, IDX_SETS
from eatnas_training.error_messages import first_line, unreadable

FOLDERS: Final = {
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "SVHN": "SVHN",
}
"""For each data set, the folder below `data.root` into which its files are downloaded."""

_CIFAR_FILES: Final = {
    ("CIFAR10", True): [f"data_batch_{number}" for number in range(1, 6)],
    ("CIFAR10", False): ["test_batch"],
    ("CIFAR100", True): ["train"],
    ("CIFAR100", False): ["test"],
}


def read_digits(*, train: bool) -> Images:
    """Read the 1,797 digits of scikit-learn. A fixed draw of 360 digits is the test part. Raises `DataError`."""
    # Find the file without an import, because importing scikit-learn takes a second and loads SciPy.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: the images come with scikit-learn, which is not installed; pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.array(_unzip(path).decode("ascii").replace("\n", ",").rstrip(",").split(","))
    rows = table.astype(np.float64).reshape(-1, 65)
    if len(rows) != DIGITS_IMAGES or rows[:, :64].max() > 16:
        raise DataError(f"{path} does not hold the {DIGITS_IMAGES} digits; reinstall scikit-learn")
    images = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = rows[:, 64].astype(np.int64)
    is_test = np.zeros(len(rows), bool)
    is_test[KeyedRng(0, "digits-test").sample(len(rows), DIGITS_TEST_IMAGES)] = True
    part = ~is_test if train else is_test
    return Images(images[part], labels[part], 10)


def read_idx_set(root: Path, name: str, classes: int, *, train: bool) -> Images:
    """Read a part of one of `IDX_SETS`. Raises `DataError`."""
    prefix = "train" if train else "t10k"
    images = read_idx(_require_file(root, name, f"{prefix}-images-idx3-ubyte"), 3)
    path = _require_file(root, name, f"{prefix}-labels-idx1-ubyte")
    return Images(images[:, None], _check_labels(path, name, read_idx(path, 1), len(images), classes), classes)


def find_file(root: Path, name: str, file: str) -> Path | None:
    """Find a file of a data set in its folder below `root`, in `root/name` or in `root`. IDX files may end in .gz."""
    suffixes = ("", ".gz") if name in IDX_SETS else ("",)
    for folder in (root / FOLDERS[name], root / name, root):
        for suffix in suffixes:
            if (folder / f"{file}{suffix}").is_file():
                return folder / f"{file}{suffix}"
    return None


def _require_file(root: Path, name: str, file: str) -> Path:
    path = find_file(root, name, file)
    if path is None:
        raise DataError(
            f"{name}: no {file} in {root / FOLDERS[name]} or {root}; "
            f"set data.root, or run: eatnas-db data prepare {name}"
        )
    return path


def _check_labels(path: Path, name: str, labels: Any, images: int, classes: int) -> Integers:
    """Return the labels as int64 `[images]`. Raises `DataError` if a label is missing or out of range."""
    try:
        checked: Integers = np.asarray(labels, np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} has labels that are not numbers; {_download_again(name)}") from error
    if checked.shape != (images,):
        raise DataError(f"{path} has {checked.size} labels for {images} images; {_download_again(name)}")
    if images and not 0 <= checked.min() <= checked.max() < classes:
        raise DataError(
            f"{path} has labels from {checked.min()} to {checked.max()}, but {name} has 0 to {classes - 1}; "
            f"{_download_again(name)}"
        )
    return checked


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read an IDX file of bytes, gzipped if its name ends in .gz. Raises `DataError`."""
    content = _unzip(path) if path.suffix == ".gz" else _read(path)
    header_length = 4 + 4 * dimensions
    if len(content) < header_length or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions; {_download_again()}")
    shape = struct.unpack(f">{dimensions}I", content[4:header_length])
    expected = header_length + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes, but its header promises {expected}; {_download_again()}")
    values: Bytes = np.frombuffer(content, np.uint8, offset=header_length).reshape(shape)
    return values


def _download_again(name: str = "NAME") -> str:
    return f"delete it and run: eatnas-db data prepare {name}"


def _unzip(path: Path) -> bytes:
    try:
        return gzip.decompress(_read(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); {_download_again()}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(error) from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads lists, strings and NumPy arrays, as in CIFAR's files. Refuses other pickles, which could run code."""

    # Take `_reconstruct` from an array, because the module that defines it differs between versions of NumPy.
    _reconstruct = np.zeros(0).__reduce__()[0]

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return self._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it would call {module}.{name}")


def read_cifar(root: Path, name: str, classes: int, *, train: bool) -> Images:
    """Read a part of CIFAR10 or CIFAR100 from its pickled batches. Raises `DataError`."""
    images, labels = [], []
    for file in _CIFAR_FILES[name, train]:
        path = _require_file(root, name, file)
        try:
            with path.open("rb") as content:
                batch = _ArrayUnpickler(content, encoding="latin1").load()
            pixels: Bytes = batch["data"]
            batch_labels = batch["labels" if "labels" in batch else "fine_labels"]
            if pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
                raise ValueError(f"it holds {pixels.dtype} {pixels.shape}")
        except OSError as error:
            raise unreadable(error, path) from error
        except Exception as error:  # a damaged pickle can raise any exception
            raise DataError(
                f"{path} is not a batch of {name} ({first_line(error)}); {_download_again(name)}"
            ) from error
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.append(_check_labels(path, name, batch_labels, len(pixels), classes))
    return Images(np.concatenate(images), np.concatenate(labels), classes)


def read_svhn(root: Path, classes: int, *, train: bool) -> Images:
    """Read a part of SVHN's cropped digits from its MATLAB file. Raises `DataError`."""
    from scipy.io import loadmat  # other data sets do not need SciPy

    path = _require_file(root, "SVHN", f"{'train' if train else 'test'}_32x32.mat")
    try:
        content = loadmat(str(path))
        images: Bytes = content["X"]
        labels = np.asarray(content["y"]).reshape(-1)
        if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"it holds {images.dtype} {images.shape}")
    except OSError as error:
        raise unreadable(error, path) from error
    except Exception as error:  # SciPy's reader can raise any exception on a damaged file
        raise DataError(f"{path} is not a file of SVHN ({first_line(error)}); {_download_again('SVHN')}") from error
    images = np.ascontiguousarray(images.reshape(32, 32, 3, -1).transpose(3, 2, 0, 1))
    labels = np.where(labels == 10, 0, labels)  # SVHN's class 10 is the digit 0
    return Images(images, _check_labels(path, "SVHN", labels, len(images), classes), classes)
