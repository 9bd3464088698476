"""A file that a user names may be a device, a pipe or a folder, or another program may still be writing it."""

import os
import socket
from pathlib import Path

import pytest

from eatnas_db.errors import DataError
from eatnas_db.input_files import read_input


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "Is a directory"),
        (make_socket, "No such device or address"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device or a socket"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
        (lambda path: path.write_bytes(bytes(1_000_001)), "more than 1 MB"),
    ],
)
def test_unreadable_file_is_named_in_the_error(tmp_path, make, message):
    make(file := tmp_path / "f")
    with pytest.raises(DataError, match=message) as raised:
        read_input(file, most_megabytes=1)
    assert str(raised.value).startswith(str(file))


def test_pipe_is_read_to_its_end(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"code,score")
    os.close(writing)
    assert read_input(Path(f"/dev/fd/{reading}"), most_megabytes=1) == b"code,score"
    os.close(reading)
    os.mkfifo(tmp_path / "unused")
    assert read_input(tmp_path / "unused", most_megabytes=1) == b""
