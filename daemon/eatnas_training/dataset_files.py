"""Files of the sets that we can name, as arrays of uint8. NumPy alone, but for SVHN (SciPy).

Every damage is a `DataError` that names the file and the way out.
"""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import DataError

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

DIGITS_TEST: Final = 360
IDX_SETS: Final = ("MNIST", "FashionMNIST")
HOMES: Final = {
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "SVHN": "SVHN",
}
"""Below `data.root`, where the files of a set that can be downloaded are put."""

_CIFAR_FILES: Final = {
    ("CIFAR10", True): [f"data_batch_{number}" for number in range(1, 6)],
    ("CIFAR10", False): ["test_batch"],
    ("CIFAR100", True): ["train"],
    ("CIFAR100", False): ["test"],
}


@dataclass(frozen=True, slots=True)
class Images:
    """`images` uint8 `[N, C, H, W]`, `labels` int64 `[N]` from 0 to `classes - 1`."""

    images: Bytes
    labels: Integers
    classes: int


def read_digits(*, train: bool) -> Images:
    """The 1,797 digits of scikit-learn, of which a fixed draw of 360 is the test part. Raises `DataError`."""
    # Found, not imported: importing scikit-learn costs a second and SciPy.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: its images come with scikit-learn; pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.array(_unzipped(path).decode("ascii").replace("\n", ",").rstrip(",").split(","))
    rows = table.astype(np.float64).reshape(-1, 65)
    if len(rows) != 1797 or rows[:, :64].max() > 16:
        raise DataError(f"{path} is not the file we know; reinstall scikit-learn")
    images = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = rows[:, 64].astype(np.int64)
    chosen = np.zeros(len(rows), bool)
    chosen[KeyedRng(0, "digits-test").sample(len(rows), DIGITS_TEST)] = True
    part = ~chosen if train else chosen
    return Images(images[part], labels[part], 10)


def read_idx_set(root: Path, name: str, classes: int, *, train: bool) -> Images:
    """A part of one of `IDX_SETS`. Raises `DataError`."""
    stem = "train" if train else "t10k"
    images = read_idx(_existing(root, name, f"{stem}-images-idx3-ubyte"), 3)
    path = _existing(root, name, f"{stem}-labels-idx1-ubyte")
    return Images(images[:, None], _labels(path, name, read_idx(path, 1), len(images), classes), classes)


def find(root: Path, name: str, file: str) -> Path | None:
    """That file of a downloadable set, in its home below `root`, in `root/name` or in `root`; IDX files also as .gz."""
    for folder in (root / HOMES[name], root / name, root):
        for ending in ("", ".gz") if name in IDX_SETS else ("",):
            if (folder / f"{file}{ending}").is_file():
                return folder / f"{file}{ending}"
    return None


def _existing(root: Path, name: str, file: str) -> Path:
    path = find(root, name, file)
    if path is None:
        raise DataError(
            f"{name}: no {file} in {root / HOMES[name]} or {root}; set data.root, or run: eatnas-db data prepare {name}"
        )
    return path


def _labels(path: Path, name: str, labels: Any, images: int, classes: int) -> Integers:
    """int64 `[N]` from 0 to `classes - 1`, one for each image; else `DataError`."""
    try:
        found: Integers = np.asarray(labels, np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} has labels that are no numbers; {_again(name)}") from error
    if found.shape != (images,):
        raise DataError(f"{path} has {found.size} labels for {images} images; {_again(name)}")
    if images and not 0 <= found.min() <= found.max() < classes:
        raise DataError(f"{path} has labels {found.min()} to {found.max()}, {name} has 0 to {classes - 1}")
    return found


def read_idx(path: Path, dimensions: int) -> Bytes:
    """An IDX file of bytes, gzipped if its name ends so. Raises `DataError`."""
    content = _unzipped(path) if path.suffix == ".gz" else _bytes(path)
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is no IDX file of bytes in {dimensions} dimensions; {_again()}")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    expected = head + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} holds {len(content)} bytes, its header promises {expected}; {_again()}")
    values: Bytes = np.frombuffer(content, np.uint8, offset=head).reshape(shape)
    return values


def _again(name: str = "NAME") -> str:
    return f"delete it and run: eatnas-db data prepare {name}"


def _unzipped(path: Path) -> bytes:
    try:
        return gzip.decompress(_bytes(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); {_again()}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(error) from error


class _Arrays(pickle.Unpickler):
    """Reads what CIFAR's files are made of: lists, texts and NumPy's arrays. Anything else a pickle might call."""

    # Found by using it: the function's module has another name in each NumPy.
    _reconstruct = np.zeros(0).__reduce__()[0]

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return self._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")


def read_cifar(root: Path, name: str, classes: int, *, train: bool) -> Images:
    """A part of CIFAR10 or CIFAR100 from its pickled batches. Raises `DataError`."""
    images, labels = [], []
    for file in _CIFAR_FILES[name, train]:
        path = _existing(root, name, file)
        try:
            with path.open("rb") as content:
                batch = _Arrays(content, encoding="latin1").load()
            pixels: Bytes = batch["data"]
            found = batch["labels" if "labels" in batch else "fine_labels"]
            if pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
                raise ValueError(f"it holds {pixels.dtype} {pixels.shape}")
        except Exception as error:  # a garbled pickle raises whatever its bytes happen to spell
            raise DataError(f"{path} is no batch of {name} ({first_line(error)}); {_again(name)}") from error
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.append(_labels(path, name, found, len(pixels), classes))
    return Images(np.concatenate(images), np.concatenate(labels), classes)


def read_svhn(root: Path, classes: int, *, train: bool) -> Images:
    """A part of SVHN's cropped digits from its MATLAB file. Raises `DataError`."""
    from scipy.io import loadmat  # type: ignore[import-untyped]

    path = _existing(root, "SVHN", f"{'train' if train else 'test'}_32x32.mat")
    try:
        content = loadmat(str(path))
        images: Bytes = content["X"]
        labels = np.asarray(content["y"]).reshape(-1)
        if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"it holds {images.dtype} {images.shape}")
    except Exception as error:  # SciPy's reader raises whatever a garbled file makes it
        raise DataError(f"{path} is not SVHN's file ({first_line(error)}); {_again('SVHN')}") from error
    images = np.ascontiguousarray(images.reshape(32, 32, 3, -1).transpose(3, 2, 0, 1))
    labels = np.where(labels == 10, 0, labels)  # its class 10 is the digit 0
    return Images(images, _labels(path, "SVHN", labels, len(images), classes), classes)


def unreadable(error: OSError) -> DataError:
    """What the system says of a file or folder, as a sentence."""
    return DataError(f"{error.filename} cannot be read: {error.strerror}")


def first_line(error: BaseException) -> str:
    """What an exception says, or else what it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
