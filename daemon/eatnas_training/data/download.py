"""Download data sets from the web, and verify their files by MD5."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eatnas_db.atomic_files import atomic_write
from eatnas_db.errors import DataError
from eatnas_db.urls import hide_passwords
from eatnas_training.data.catalog import IDX_SETS
from eatnas_training.data.dataset_files import FOLDERS, find_file, read_idx

MIRROR_VARIABLE: Final = "EATNAS_DATA_MIRROR"
"""The environment variable for the URL of a mirror. The mirror must have each file at NAME/FILE."""
TIMEOUT_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a data set: the MD5 of each file, and the name and MD5 of their archive if there is one."""

    url: str
    files: Mapping[str, str]
    archive: tuple[str, str] | None = None


DOWNLOADS: Final[dict[str, Source]] = {
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


def download_missing(root: Path, name: str, source: Source) -> None:
    """Download the files of a data set that are missing or damaged. Raises `DataError` or `OSError`."""
    missing = {file: md5 for file, md5 in source.files.items() if not _is_valid(root, name, file, md5)}
    if not missing:
        return
    if source.archive is None:
        for file, md5 in missing.items():
            _download(name, source, file, md5, _path_of(root, name, file).parent)
        return
    archive, md5 = source.archive
    path = root / archive
    must_download = not (path.is_file() and _md5(path) == md5)
    if must_download:
        _download(name, source, archive, md5, root)
    try:
        _unpack(path, root, name, missing)
    finally:
        if must_download:
            path.unlink()


def _is_valid(root: Path, name: str, file: str, md5: str) -> bool:
    path = _path_of(root, name, file)
    if not path.is_file():
        return False
    if name not in IDX_SETS:
        return _md5(path) == md5
    # Do not compare the MD5 of an existing .gz file: Debian compresses the files again, which changes the bytes. The
    # gzip format has its own checksum.
    try:
        read_idx(path, 3 if "images" in file else 1)
    except DataError:
        return False
    return True


def _path_of(root: Path, name: str, file: str) -> Path:
    """Return the path of a file if it exists, otherwise the path for its download."""
    return find_file(root, name, file.removesuffix(".gz")) or root / FOLDERS[name] / file


def _download(name: str, source: Source, file: str, md5: str, folder: Path) -> None:
    """Download `folder/file`. The file gets this name only when it is complete and has the right MD5."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{name}/{file}" if mirror else f"{source.url}/{file}"
    advice = f"put {file} into {folder} manually, or set {MIRROR_VARIABLE} to a URL that has {name}/{file}"
    if mirror and "@" in mirror:
        raise DataError(f"{MIRROR_VARIABLE} holds a user name or a password, which downloads do not send; {advice}")
    shown = hide_passwords(url)
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{shown} is not an http or https URL; {advice}")
    print(f"downloading {shown}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / file) as target:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                shutil.copyfileobj(response, target)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise DataError(f"{name}: the download of {shown} failed ({_reason(error)}); {advice}") from error
        target.flush()
        if (actual := _md5(Path(target.name))) != md5:
            raise DataError(f"{name}: {shown} has MD5 {actual} instead of {md5}, so it is damaged or changed; {advice}")


def _unpack(archive: Path, root: Path, name: str, files: Mapping[str, str]) -> None:
    folder = FOLDERS[name]
    with tarfile.open(archive) as tar:
        for file in files:
            # Take only the content from the archive, because a path in it could lead out of the folder.
            content = tar.extractfile(f"{folder}/{file}")
            if content is None:
                raise DataError(
                    f"{archive} does not contain the file {folder}/{file}; delete the archive and try again"
                )
            path = _path_of(root, name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as target:
                shutil.copyfileobj(content, target)


def _md5(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
