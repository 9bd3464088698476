"""Images by name, as uint8 arrays; the split into train and validation; the digest of what is used.

NumPy alone, but for the sets that torchvision reads. Small sets lie whole in memory.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eatnas_db.domain.chance import Chance
from eatnas_db.errors import DataError

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

FOLDER_LIMIT: Final = 50_000
DIGITS_TEST: Final = 360
VALIDATION_SHARE: Final = 5
RESIZED_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Known:
    """A data set that we can name; side 0 and images 0 are those of the folder at hand."""

    images: int
    test_images: int
    side: int
    channels: int
    classes: int
    source: str
    needs_download: bool


KNOWN: Final[dict[str, Known]] = {
    "digits": Known(1797 - DIGITS_TEST, DIGITS_TEST, 8, 1, 10, "scikit-learn, bundled", False),
    "MNIST": Known(60_000, 10_000, 28, 1, 10, "IDX files, by torchvision", True),
    "FashionMNIST": Known(60_000, 10_000, 28, 1, 10, "IDX files, by torchvision", True),
    "CIFAR10": Known(50_000, 10_000, 32, 3, 10, "torchvision", True),
    "CIFAR100": Known(50_000, 10_000, 32, 3, 100, "torchvision", True),
    "SVHN": Known(73_257, 26_032, 32, 3, 10, "torchvision", True),
    "ImageFolder": Known(0, 0, 0, 3, 0, "a folder of your own: root/class/image", False),
    "ImageNet": Known(1_281_167, 50_000, 224, 3, 1000, "a folder of your own: root/train", False),
}


@dataclass(frozen=True, slots=True)
class Images:
    """`images` uint8 `[N, C, H, W]`, `labels` int64 `[N]` from 0 to `classes - 1`."""

    images: Bytes
    labels: Integers
    classes: int


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a worker may see: the two parts of the training part. `digest` names their every byte."""

    train: Images
    validation: Images
    digest: str


def load_training(data: Mapping[str, Any]) -> TrainingData:
    """The train and validation images of a `DataSpec` as a mapping; the test set is not among them.

    Raises `DataError` when the set is unknown, missing or damaged, or holds too few images.
    """
    whole = _load(data, train=True)
    resolution = data.get("resolution")
    train, validation = split(len(whole.labels), data)
    parts = [
        Images(resized(whole.images[indices], resolution), whole.labels[indices], whole.classes)
        for indices in (train, validation)
    ]
    return TrainingData(parts[0], parts[1], _digest(parts, [train, validation]))


def load_test(data: Mapping[str, Any]) -> Images:
    """The test set of a `DataSpec`: for a final report, never for a search. Raises `DataError`."""
    whole = _load(data, train=False)
    return Images(resized(whole.images, data.get("resolution")), whole.labels, whole.classes)


def known(name: str) -> Known:
    """The set of that name. Raises `DataError` with the nearest known name."""
    if name not in KNOWN:
        lower = {word.lower(): word for word in KNOWN}
        near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
        hint = f"; did you mean {lower[near[0]]}?" if near else ""
        raise DataError(f"unknown data set {name!r}{hint} (known: {', '.join(KNOWN)})")
    return KNOWN[name]


def split(count: int, data: Mapping[str, Any]) -> tuple[Integers, Integers]:
    """Ascending indices of the train and the validation images among `count`.

    They hang on `split_seed` alone: fewer train images are a subset of more, and never meet validation.
    Raises `DataError` when the two together ask for more than there are.
    """
    validation = data.get("validation_images") or count // VALIDATION_SHARE
    train = data.get("train_images") or count - validation
    if train < 1 or validation < 1 or train + validation > count:
        raise DataError(
            f"data: {train} train and {validation} validation images do not fit into the "
            f"{count} images of {data['name']}'s training part"
        )
    chance = Chance(int(data.get("split_seed") or 0), "split")
    keys = np.array([chance.bits() for _ in range(count)], dtype=np.uint64)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    return np.sort(order[validation : validation + train]), np.sort(order[:validation])


def resized(images: Bytes, side: int | None) -> Bytes:
    """Images `[N, C, H, W]` brought to `side` x `side` by a triangle filter (area-like when shrinking)."""
    height, width = images.shape[2:]
    if side is None or (height, width) == (side, side):
        return images
    rows, columns = _filter(height, side), _filter(width, side)
    out = np.empty((*images.shape[:2], side, side), np.uint8)
    for start in range(0, len(images), RESIZED_AT_ONCE):
        piece = images[start : start + RESIZED_AT_ONCE].astype(np.float64)
        out[start : start + RESIZED_AT_ONCE] = np.rint(rows @ piece @ columns.T)
    return out


def _filter(length: int, side: int) -> NDArray[np.float64]:
    """Weights `[side, length]`, each row summing to 1."""
    scale = length / side
    support = max(1.0, scale)
    centres = (np.arange(side) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(length)) / support)
    normalised: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalised


def _digest(parts: list[Images], indices: list[Integers]) -> str:
    sha = hashlib.sha256()
    for part, chosen in zip(parts, indices, strict=True):
        for array in (part.images, part.labels, chosen):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _load(data: Mapping[str, Any], *, train: bool) -> Images:
    name = str(data["name"])
    classes = known(name).classes
    if name == "digits":
        return _digits(train=train)
    if not data.get("root"):
        raise DataError(f"{name}: give data.root, the folder where its files lie")
    root = Path(str(data["root"])).expanduser()
    if name in ("MNIST", "FashionMNIST"):
        return _idx_set(root, name, classes, train=train)
    if name in ("ImageFolder", "ImageNet"):
        return _folder(root, name, data.get("resolution"), train=train)
    return _from_torchvision(root, name, classes, train=train)


def _digits(*, train: bool) -> Images:
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
    chosen[Chance(0, "digits-test").distinct(len(rows), DIGITS_TEST)] = True
    part = ~chosen if train else chosen
    return Images(images[part], labels[part], 10)


def _idx_set(root: Path, name: str, classes: int, *, train: bool) -> Images:
    stem = "train" if train else "t10k"
    images = _idx(_idx_file(root, name, f"{stem}-images-idx3-ubyte"), 3)
    path = _idx_file(root, name, f"{stem}-labels-idx1-ubyte")
    labels = _idx(path, 1)
    if len(images) != len(labels):
        raise DataError(f"{path} has {len(labels)} labels for {len(images)} images; {_again(name)}")
    if len(labels) and labels.max() >= classes:
        raise DataError(f"{path} has label {labels.max()}, {name} has {classes} classes")
    return Images(images[:, None], labels.astype(np.int64), classes)


def _idx_file(root: Path, name: str, file: str) -> Path:
    for folder in (root, root / name / "raw", root / name):
        for path in (folder / file, folder / f"{file}.gz"):
            if path.is_file():
                return path
    raise DataError(
        f"{name}: no {file}[.gz] in {root} or {root / name / 'raw'}; "
        f"set data.root, or run: eatnas-db data prepare {name}"
    )


def _idx(path: Path, dimensions: int) -> Bytes:
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
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def torchvision_set(root: Path, name: str, *, train: bool, download: bool = False) -> Any:
    """torchvision's own data set object. Raises `DataError` in one line for whatever it raises."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise DataError(f"{name} needs torchvision, which does not load: {_line(error)}") from error
    part: dict[str, Any] = {"train": train}
    if name == "SVHN":
        part = {"split": "train" if train else "test"}
    try:
        return getattr(datasets, name)(str(root), download=download, **part)
    except Exception as error:  # its readers raise whatever a broken file or network makes them
        way_out = "" if download else f"; run: eatnas-db data prepare {name}"
        raise DataError(f"{name} in {root}: {_line(error)}{way_out}") from error


def _from_torchvision(root: Path, name: str, classes: int, *, train: bool) -> Images:
    loaded = torchvision_set(root, name, train=train)
    images = np.asarray(loaded.data)
    if name != "SVHN":
        images = images.transpose(0, 3, 1, 2)
    labels = loaded.labels if name == "SVHN" else loaded.targets
    return Images(np.ascontiguousarray(images), np.asarray(labels, np.int64), classes)


def _folder(root: Path, name: str, resolution: int | None, *, train: bool) -> Images:
    part = root / ("train" if train else "val")
    top = part if part.is_dir() or not train else root
    classes = sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
    if not classes:
        raise DataError(f"{name}: {top} has no folders of classes; set data.root")
    files = [(path, label) for label, folder in enumerate(classes) for path in sorted(folder.iterdir())]
    if not files or len(files) > FOLDER_LIMIT:
        raise DataError(
            f"{name}: {top} holds {len(files)} files; folders of 1 to {FOLDER_LIMIT} images are "
            "read, streaming larger ones comes later"
        )
    side = resolution or KNOWN[name].side
    if not side:
        raise DataError(f"{name}: set data.resolution, the side that its images are brought to")
    images = np.stack([_picture(path, side) for path, _ in files])
    return Images(images, np.array([label for _, label in files], np.int64), len(classes))


def _picture(path: Path, side: int) -> Bytes:
    """One file as `[3, side, side]`: its middle square, resized."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"image folders need Pillow: {_line(error)}") from error
    try:
        with Image.open(path) as picture:
            pixels: Bytes = np.asarray(picture.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is no image that can be read: {_line(error)}") from error
    height, width = pixels.shape[:2]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    middle = pixels[top : top + square, left : left + square].transpose(2, 0, 1)
    square_image: Bytes = resized(middle[None], side)[0]
    return square_image


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
