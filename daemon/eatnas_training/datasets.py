"""Images by name, as uint8 arrays; the split into train and validation; the digest of what is used.

Small sets lie whole in memory; of folders too large for that only the files' names do, see `streamed`. NumPy alone,
but for SVHN (SciPy) and folders of images (Pillow).
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import os
import pickle
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from eatnas_db.domain.chance import Chance
from eatnas_db.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

RESIDENT_BYTES: Final = 2**30
"""Folders of images that would take more than this at their resolution are streamed."""
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
    "MNIST": Known(60_000, 10_000, 28, 1, 10, "IDX files", True),
    "FashionMNIST": Known(60_000, 10_000, 28, 1, 10, "IDX files", True),
    "CIFAR10": Known(50_000, 10_000, 32, 3, 10, "pickled batches", True),
    "CIFAR100": Known(50_000, 10_000, 32, 3, 100, "pickled batches", True),
    "SVHN": Known(73_257, 26_032, 32, 3, 10, "MATLAB files", True),
    "ImageFolder": Known(0, 0, 0, 3, 0, "a folder of your own: root/class/image", False),
    "ImageNet": Known(1_281_167, 50_000, 224, 3, 1000, "a folder of your own: root/train", False),
}

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


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a worker may see: the two parts of the training part. `digest` names their every byte."""

    train: Images
    validation: Images
    digest: str


@dataclass(frozen=True, slots=True)
class FinalData:
    """What the worker of a final model sees: train and validation images, in this order, and the test part.

    `digest` names their every byte.
    """

    train: Images
    test: Images
    digest: str


@dataclass(frozen=True, slots=True)
class Files:
    """A part that is read from its files when it is needed; `labels` int64 `[N]`."""

    paths: list[str]
    labels: Integers


@dataclass(frozen=True, slots=True)
class StreamedData:
    """What a worker may see of a set that streams. `digest` names the files and their sizes, not their bytes.

    `held_out` is for validation; of a final model's data it is the test part, and `train` is all the rest.
    """

    train: Files
    held_out: Files
    side: int
    classes: int
    digest: str


def load_training(data: Mapping[str, Any]) -> TrainingData:
    """The train and validation images of a `DataSpec` as a mapping; the test set is not among them.

    Raises `DataError` when the set is unknown, missing or damaged, holds too few images, or has to be `streamed`.
    """
    whole = _load(data, train=True)
    resolution = data.get("resolution")
    train, validation = split(len(whole.labels), data)
    parts = [
        Images(resized(whole.images[indices], resolution), whole.labels[indices], whole.classes)
        for indices in (train, validation)
    ]
    return TrainingData(parts[0], parts[1], _digest(parts, [train, validation]))


def load_final(data: Mapping[str, Any]) -> FinalData:
    """What a final model is trained and tested on. Raises `DataError` as `load_training`, and without a test part."""
    whole = _load(data, train=True)
    both = np.concatenate(split(len(whole.labels), data))
    train = Images(resized(whole.images[both], data.get("resolution")), whole.labels[both], whole.classes)
    if data["name"] == "ImageFolder":
        _test_folder(data, _folder(_root(data), data["name"], train=True))
    test = load_test(data)
    return FinalData(train, test, _digest([train, test], [both, np.arange(len(test.labels))]))


def streamed(data: Mapping[str, Any], *, final: bool = False) -> StreamedData | None:
    """The files of a `DataSpec` whose images are decoded while a network trains; None for all other sets.

    ImageNet always streams, a folder of one's own if its training part exceeds `RESIDENT_BYTES`. `final`: what a final
    model is trained and tested on. Raises `DataError`.
    """
    name = str(data["name"])
    known(name)
    if name not in ("ImageFolder", "ImageNet"):
        return None
    folder = _folder(_root(data), name, train=True)
    side = _side(data)
    if name == "ImageFolder" and folder.resident_bytes(side) <= RESIDENT_BYTES:
        return None
    sha = hashlib.sha256(f"streamed, side {side}, {folder.classes} classes\n".encode())
    train, validation = split(len(folder.names), data)
    chosen = [("train", folder, train), ("validation", folder, validation)]
    if final:
        test = _test_folder(data, folder)
        chosen = [("train", folder, np.concatenate((train, validation))), ("test", test, np.arange(len(test.names)))]
    parts = []
    for word, source, indices in chosen:
        paths = [source.path(index) for index in indices.tolist()]
        sha.update(f"{word} {len(paths)}\n".encode())
        for index, path in zip(indices.tolist(), paths, strict=True):
            sha.update(f"{source.labels[index]} {_size(path)} ".encode() + os.fsencode(source.names[index]) + b"\n")
        parts.append(Files(paths, source.labels[indices]))
    return StreamedData(parts[0], parts[1], side, folder.classes, sha.hexdigest())


def load_test(data: Mapping[str, Any]) -> Images:
    """The test part of a `DataSpec`: for final models, never for a search. Raises `DataError`."""
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
    root = _root(data)
    if name in IDX_SETS:
        return _idx_set(root, name, classes, train=train)
    if name in ("CIFAR10", "CIFAR100"):
        return _cifar(root, name, classes, train=train)
    if name == "SVHN":
        return _svhn(root, classes, train=train)
    return _decoded(_folder(root, name, train=train), name, _side(data))


def _root(data: Mapping[str, Any]) -> Path:
    if not data.get("root"):
        raise DataError(f"{data['name']}: give data.root, the folder where its files lie")
    return Path(str(data["root"])).expanduser()


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
        raise _unreadable(error) from error


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


def _cifar(root: Path, name: str, classes: int, *, train: bool) -> Images:
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
            raise DataError(f"{path} is no batch of {name} ({_line(error)}); {_again(name)}") from error
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.append(_labels(path, name, found, len(pixels), classes))
    return Images(np.concatenate(images), np.concatenate(labels), classes)


def _svhn(root: Path, classes: int, *, train: bool) -> Images:
    from scipy.io import loadmat  # type: ignore[import-untyped]

    path = _existing(root, "SVHN", f"{'train' if train else 'test'}_32x32.mat")
    try:
        content = loadmat(str(path))
        images: Bytes = content["X"]
        labels = np.asarray(content["y"]).reshape(-1)
        if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"it holds {images.dtype} {images.shape}")
    except Exception as error:  # SciPy's reader raises whatever a garbled file makes it
        raise DataError(f"{path} is not SVHN's file ({_line(error)}); {_again('SVHN')}") from error
    images = np.ascontiguousarray(images.reshape(32, 32, 3, -1).transpose(3, 2, 0, 1))
    labels = np.where(labels == 10, 0, labels)  # its class 10 is the digit 0
    return Images(images, _labels(path, "SVHN", labels, len(images), classes), classes)


@dataclass(frozen=True, slots=True)
class _Folder:
    """Image files below `top`: their names relative to it, in order; `labels` int64 `[N]`.

    Names, not paths of pathlib's: ImageNet has more than a million, and each worker looks at them all.
    """

    top: Path
    names: list[str]
    labels: Integers
    classes: int

    def path(self, index: int) -> str:
        return f"{self.top}/{self.names[index]}"

    def resident_bytes(self, side: int) -> int:
        return len(self.names) * 3 * side * side


def _folder(root: Path, name: str, *, train: bool) -> _Folder:
    part = root / ("train" if train else "val")
    # Where there is a test part beside, the root itself would make a class of it.
    in_parts = not train or name == "ImageNet" or part.is_dir() or (root / "val").is_dir()
    top = part if in_parts else root
    classes = _folders(top)
    if not classes:
        raise DataError(f"{name}: {top} has no folders of classes; put images into {top}/CLASS/, or set data.root")
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        inside = _files(top, folder)
        names += inside
        labels += [label] * len(inside)
    if not names:
        raise DataError(f"{name}: {top} has folders of classes, but no file in them")
    return _Folder(top, names, np.array(labels, np.int64), len(classes))


def _test_folder(data: Mapping[str, Any], train: _Folder) -> _Folder:
    """The test part of a folder set. Raises `DataError` where it is missing, or has other classes than `train`."""
    test = _folder(_root(data), str(data["name"]), train=False)
    if odd := sorted(set(_folders(train.top)) ^ set(_folders(test.top))):
        raise DataError(f"{data['name']}: {train.top} and {test.top} must have the same classes; one lacks {odd[0]!r}")
    return test


def _folders(top: Path) -> list[str]:
    try:
        with os.scandir(top) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(error) from error


def _files(top: Path, folder: str) -> list[str]:
    """All files below that folder, relative to `top`, sorted; hidden ones are nobody's images."""

    def stop(error: OSError) -> None:
        raise _unreadable(error) from error

    found: list[str] = []
    for above, folders, files in os.walk(f"{top}{os.sep}{folder}", onerror=stop):
        folders[:] = [name for name in folders if not _hidden(name)]
        below = above[len(str(top)) + 1 :]
        found += [f"{below}/{file}" for file in files if not _hidden(file)]
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename} cannot be read: {error.strerror}")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError as error:
        raise _unreadable(error) from error


def _side(data: Mapping[str, Any]) -> int:
    side = data.get("resolution") or KNOWN[data["name"]].side
    if not side:
        raise DataError(f"{data['name']}: set data.resolution, the side that its images are brought to")
    return int(side)


def _decoded(folder: _Folder, name: str, side: int) -> Images:
    """Each file's middle square, resized."""
    if folder.resident_bytes(side) > RESIDENT_BYTES:
        raise DataError(f"{name}: {folder.top} holds {len(folder.names)} files, too many to lie in memory at {side}")
    images = np.empty((len(folder.names), 3, side, side), np.uint8)
    for number in range(len(folder.names)):
        pixels: Bytes = np.asarray(picture(folder.path(number)))
        height, width = pixels.shape[:2]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        middle = pixels[top : top + square, left : left + square].transpose(2, 0, 1)
        images[number] = resized(middle[None], side)[0]
    return Images(images, folder.labels, folder.classes)


def picture(path: str) -> Image:
    """An image file, decoded, in RGB. Raises `DataError` naming it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"image folders need Pillow: {_line(error)}") from error
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # each format has a reader of its own, and each raises what it likes
        raise DataError(f"{path} is no image that can be read ({_line(error)}); replace or delete it") from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
