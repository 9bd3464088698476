from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from eatnas_db.errors import DataError
from eatnas_training import prepare
from eatnas_training.data.catalog import DATA_SETS, FORMS
from eatnas_training.data.dataset_files import FOLDERS
from eatnas_training.data.download import DOWNLOADS, Source

FASHION = tuple(DOWNLOADS["FashionMNIST"].files)


class Server:
    """A web server for one folder. `requests` lists the requested paths."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests = folder, list[str]()
        requests = self.requests

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                requests.append(self.path)

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    started = Server(tmp_path / "served")
    yield started
    started.close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes())


def serve_fashion(server: Server) -> dict[str, Source]:
    """Serve a small FashionMNIST and return its source."""
    files = {}
    for name in FASHION:
        content = idx(np.zeros((20, 28, 28)) if "images" in name else np.arange(20) % 10)
        (server.folder / name).write_bytes(content)
        files[name] = md5(content)
    return {"FashionMNIST": Source(server.url, files)}


def serve_cifar(server: Server) -> dict[str, Source]:
    """Serve a small CIFAR100 archive that contains an additional malicious file, and return its source."""
    files = {}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("train", "test", "../../escape"):
            batch = {"data": np.zeros((10, 3072), np.uint8), "fine_labels": list(range(10))}
            content = pickle.dumps(batch)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            files[name] = md5(content)
    del files["../../escape"]
    (server.folder / "small.tar.gz").write_bytes(archive.getvalue())
    return {"CIFAR100": Source(server.url, files, ("small.tar.gz", md5(archive.getvalue())))}


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_are_downloaded_once_and_verified(server: Server, tmp_path: Path) -> None:
    sources, data = serve_fashion(server), {"name": "FashionMNIST", "root": str(tmp_path / "new" / "data")}
    first = prepare.download(data, sources)
    assert (first["train_images"], first["validation_images"], first["classes"]) == (16, 4, 10)
    assert len(server.requests) == 4
    assert prepare.download(data, sources) == first == prepare.describe(data)
    assert len(server.requests) == 4
    assert all_files(tmp_path / "new") == sorted(f"data/FashionMNIST/raw/{name}" for name in FASHION)


def test_only_damaged_or_missing_files_are_downloaded_again(server: Server, tmp_path: Path) -> None:
    sources, data = serve_fashion(server), {"name": "FashionMNIST", "root": str(tmp_path / "data")}
    first = prepare.download(data, sources)
    for name in FASHION:
        (tmp_path / "data" / "FashionMNIST" / "raw" / name).rename(tmp_path / "data" / name)
    damaged = tmp_path / "data" / FASHION[0]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    (tmp_path / "data" / FASHION[3]).unlink()
    assert prepare.download(data, sources) == first
    assert server.requests[4:] == [f"/{FASHION[0]}", f"/{FASHION[3]}"]
    assert all_files(tmp_path / "data") == sorted([*FASHION[:3], f"FashionMNIST/raw/{FASHION[3]}"])


def test_recompressed_idx_files_are_accepted(server: Server, tmp_path: Path) -> None:
    sources, data = serve_fashion(server), {"name": "FashionMNIST", "root": str(tmp_path / "data")}
    (tmp_path / "data").mkdir()
    for name in FASHION:
        content = gzip.decompress((server.folder / name).read_bytes())
        if "images" in name:
            (tmp_path / "data" / name.removesuffix(".gz")).write_bytes(content)
        else:
            (tmp_path / "data" / name).write_bytes(gzip.compress(content, 1, mtime=1))
    prepare.download(data, sources)
    assert server.requests == []


def test_archive_is_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    sources, data = serve_cifar(server), {"name": "CIFAR100", "root": str(tmp_path / "data")}
    first = prepare.download(data, sources)
    assert first["train_images"] == 8
    assert all_files(tmp_path / "data") == ["cifar-100-python/test", "cifar-100-python/train"]
    assert prepare.download(data, sources) == first
    assert len(server.requests) == 1
    path = tmp_path / "data" / "cifar-100-python" / "test"
    path.write_bytes(path.read_bytes().replace(b"\0\0\0\0", b"\0\1\0\0", 1))
    assert prepare.download(data, sources) == first
    assert len(server.requests) == 2


def test_existing_archive_is_unpacked_and_kept(server: Server, tmp_path: Path) -> None:
    sources, data = serve_cifar(server), {"name": "CIFAR100", "root": str(tmp_path / "data")}
    (tmp_path / "data").mkdir()
    (server.folder / "small.tar.gz").rename(tmp_path / "data" / "small.tar.gz")
    prepare.download(data, sources)
    assert server.requests == []
    assert (tmp_path / "data" / "small.tar.gz").exists()


@pytest.mark.parametrize("serve", [serve_fashion, serve_cifar])
@pytest.mark.parametrize("damage", ["other bytes", "truncated", "missing", "unreachable", "file url"])
def test_failed_download_is_reported_and_leaves_no_file(server: Server, tmp_path: Path, serve, damage: str) -> None:
    ((name, source),) = serve(server).items()
    file = source.archive[0] if source.archive else next(iter(source.files))
    folder = tmp_path / "data" / ("" if source.archive else FOLDERS[name])
    served = server.folder / file
    if damage == "other bytes":
        served.write_bytes(b"x" * 1000)
    elif damage == "truncated":
        served.write_bytes(served.read_bytes()[:-1])
    elif damage == "missing":
        served.unlink()
    elif damage == "unreachable":
        server.close()
    else:
        source = Source("file:///etc", source.files, source.archive)
    with pytest.raises(DataError) as raised:
        prepare.download({"name": name, "root": str(tmp_path / "data")}, {name: source})
    message = str(raised.value)
    assert "\n" not in message
    assert f"put {file} into {folder} manually" in message.replace(f"{folder}/ ", f"{folder} ")
    assert f"{source.url}/{file}" in message
    assert ("MD5" in message) == (damage in ("other bytes", "truncated"))
    assert all_files(tmp_path / "data") == []


def test_unwritable_folder_is_reported_in_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match=r"^FashionMNIST: .*data.* cannot be written: [^\n]*$"):
        prepare.download({"name": "FashionMNIST", "root": str(tmp_path / "data")}, serve_fashion(server))


def test_digests_agree_with_torchvision() -> None:
    for kind in (MNIST, FashionMNIST):
        assert dict(kind.resources) == DOWNLOADS[kind.__name__].files
    for kind in (CIFAR10, CIFAR100):
        source = DOWNLOADS[kind.__name__]
        assert dict([*kind.train_list, *kind.test_list]) == source.files
        assert source.archive == (kind.filename, kind.tgz_md5)
    known = {file: digest for _, file, digest in (SVHN.split_list[part] for part in ("train", "test"))}
    assert known == DOWNLOADS["SVHN"].files


def run_program(command: str, data: object = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eatnas_training.prepare", command],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
    )


def test_program_verifies_files_from_a_mirror(server: Server, tmp_path: Path) -> None:
    serve_fashion(server)
    data = {"name": "FashionMNIST", "root": str(tmp_path / "data")}
    (server.folder / "FashionMNIST").mkdir()
    for name in FASHION:
        (server.folder / name).rename(server.folder / "FashionMNIST" / name)
    answer = run_program("download", data, EATNAS_DATA_MIRROR=f"{server.url}/")
    assert answer.returncode == 1
    assert server.requests == [f"/FashionMNIST/{FASHION[0]}"]
    progress, error = answer.stderr.splitlines()
    assert progress == f"downloading {server.url}/FashionMNIST/{FASHION[0]}"
    assert "has MD5" in error
    assert all_files(tmp_path / "data") == []


def test_program_describes_digits_and_lists_data_sets() -> None:
    described = json.loads(run_program("describe", {"name": "digits"}).stdout)
    assert described["train_images"] == 1150
    assert (described["resolution"], described["channels"], described["classes"]) == (8, 1, 10)
    assert len(described["data_digest"]) == 64
    assert [row["name"] for row in json.loads(run_program("list").stdout)] == [*DATA_SETS, *FORMS.values()]


def test_program_reports_an_error_in_one_line() -> None:
    answer = run_program("describe", {"name": "digit"})
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "did you mean digits" in answer.stderr


def test_data_sets_without_download_are_only_described(tmp_path: Path) -> None:
    assert prepare.download({"name": "digits"}) == prepare.describe({"name": "digits"})
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"ImageNet: .*put images into .*train/CLASS/"):
        prepare.download({"name": "ImageNet", "root": str(tmp_path)})
    with pytest.raises(DataError, match=r"CIFAR10: set data\.root"):
        prepare.download({"name": "CIFAR10"})
