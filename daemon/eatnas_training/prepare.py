"""`python -m eatnas_training.prepare list|describe|final|download`: data sets, outside any worker.

`describe`, `final` and `download` read a `DataSpec` as JSON on stdin; all print JSON. A mistake is one line, exit 1.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from eatnas_db.atomic_files import atomic_write
from eatnas_db.errors import DataError
from eatnas_training import dataset_files, datasets

MIRROR: Final = "EATNAS_DATA_MIRROR"
"""The environment's variable for a URL below which the files lie as NAME/FILE."""
SILENCE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files of a set come from: their MD5s by name, and those of the archive that they are in, if any."""

    url: str
    files: Mapping[str, str]
    archive: tuple[str, str] | None = None


SOURCES: Final[dict[str, Source]] = {
    "MNIST": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "FashionMNIST": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "CIFAR10": Source(
        "https://www.cs.toronto.edu/~kriz",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    ),
    "CIFAR100": Source(
        "https://www.cs.toronto.edu/~kriz",
        {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ),
    "SVHN": Source(
        "http://ufldl.stanford.edu/housenumbers",
        {
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
    ),
}


def listed() -> list[dict[str, Any]]:
    """Every known set: name, images, test_images, side, channels, classes, source, needs_download."""
    return [{"name": name, **asdict(known)} for name, known in datasets.KNOWN.items()]


def describe(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a search needs to know of its data. Raises `DataError`."""
    files = datasets.streamed(data)
    if files is not None:
        train, validation, digest = files.train.labels, files.held_out.labels, files.digest
        channels, side, classes = 3, files.side, files.classes
    else:
        loaded = datasets.load_training(data)
        train, validation, digest = loaded.train.labels, loaded.validation.labels, loaded.digest
        _, channels, side, _ = loaded.train.images.shape
        classes = loaded.train.classes
    return {
        "resolution": side,
        "channels": channels,
        "classes": classes,
        "train_images": len(train),
        "validation_images": len(validation),
        "test_images": datasets.known(data["name"]).test_images,
        "data_digest": digest,
    }


def describe_final(data: Mapping[str, Any]) -> dict[str, int]:
    """How many images final models are trained and tested on. Raises `DataError`, among others without a test part."""
    files = datasets.streamed(data, final=True)
    if files is not None:
        return {"train_images": len(files.train.labels), "test_images": len(files.held_out.labels)}
    loaded = datasets.load_final(data)
    return {"train_images": len(loaded.train.labels), "test_images": len(loaded.test.labels)}


def download(data: Mapping[str, Any], sources: Mapping[str, Source] = SOURCES) -> dict[str, Any]:
    """Fetch the files that are missing or damaged, read both parts, and describe. Raises `DataError`."""
    name = str(data["name"])
    if datasets.known(name).needs_download:
        if not data.get("root"):
            raise DataError(f"{name}: give data.root, the folder for its files")
        root = Path(str(data["root"])).expanduser()
        try:
            _fetch(root, name, sources[name])
        except OSError as error:
            raise DataError(f"{name}: {error.filename or root} cannot be written: {error.strerror}") from error
        datasets.load_test(data)
    return describe(data)


def _fetch(root: Path, name: str, source: Source) -> None:
    wanted = {file: md5 for file, md5 in source.files.items() if not _is_there(root, name, file, md5)}
    if not wanted:
        return
    if source.archive is None:
        for file, md5 in wanted.items():
            folder = _place(root, name, file).parent
            _download(name, source, file, md5, folder)
        return
    archive, md5 = source.archive
    path = root / archive
    ours = not (path.is_file() and _md5(path) == md5)
    if ours:
        _download(name, source, archive, md5, root)
    try:
        _unpack(path, root, name, wanted)
    finally:
        if ours:
            path.unlink()


def _is_there(root: Path, name: str, file: str, md5: str) -> bool:
    path = _place(root, name, file)
    if not path.is_file():
        return False
    if name not in dataset_files.IDX_SETS:
        return _md5(path) == md5
    # Its bytes depend on who zipped it (Debian zips anew), and the format has a checksum of its own.
    try:
        dataset_files.read_idx(path, 3 if "images" in file else 1)
    except DataError:
        return False
    return True


def _place(root: Path, name: str, file: str) -> Path:
    """Where that file is, or else where it is to be."""
    return dataset_files.find(root, name, file.removesuffix(".gz")) or root / dataset_files.HOMES[name] / file


def _download(name: str, source: Source, file: str, md5: str, folder: Path) -> None:
    """Fetch `folder/file`; it appears whole and with the right MD5, or not at all."""
    mirror = os.environ.get(MIRROR)
    url = f"{mirror.rstrip('/')}/{name}/{file}" if mirror else f"{source.url}/{file}"
    by_hand = f"put {file} into {folder} by hand, or set {MIRROR} to a URL that has {name}/{file}"
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url} is no URL of a web server; {by_hand}")
    print(f"fetching {url}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / file) as target:
        try:
            with urllib.request.urlopen(url, timeout=SILENCE_SECONDS) as answer:  # noqa: S310
                shutil.copyfileobj(answer, target)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise DataError(f"{name}: {url} cannot be fetched ({_reason(error)}); {by_hand}") from error
        target.flush()
        if (found := _md5(Path(target.name))) != md5:
            raise DataError(f"{name}: {url} has MD5 {found}, not {md5}: damaged or another file, removed; {by_hand}")


def _unpack(archive: Path, root: Path, name: str, wanted: Mapping[str, str]) -> None:
    home = dataset_files.HOMES[name]
    with tarfile.open(archive) as tar:
        for file in wanted:
            # Bytes alone, into a name of ours: nothing that an archive says decides where something is written.
            content = tar.extractfile(f"{home}/{file}")
            if content is None:
                raise DataError(f"{archive}: {home}/{file} is no file in it; delete it and try again")
            path = _place(root, name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as target:
                shutil.copyfileobj(content, target)


def _md5(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="eatnas_training.prepare", description=__doc__)
    parser.add_argument("command", choices=["list", "describe", "final", "download"])
    command = parser.parse_args().command
    try:
        if command == "list":
            answer: Any = listed()
        else:
            data = json.load(sys.stdin)
            answer = {"describe": describe, "final": describe_final, "download": download}[command](data)
    except (DataError, OSError, ValueError, KeyError) as error:
        print(f"{error}" if isinstance(error, DataError) else repr(error), file=sys.stderr)
        sys.exit(1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
