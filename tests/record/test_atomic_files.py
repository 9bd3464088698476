"""Files that are replaced atomically, and locks between processes."""

import stat
import subprocess
import sys

import pytest

from eatnas_db.atomic_files import atomic_write
from eatnas_db.file_lock import exclusive_lock, is_locked, try_lock


def test_atomic_write_replaces_the_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with atomic_write(file) as opened:
        opened.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_keeps_the_old_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(file) as opened:
        opened.write(None)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_write_applies_the_mode(tmp_path):
    with atomic_write(tmp_path / "file", mode=0o600) as opened:
        opened.write(b"secret")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_lock_excludes_other_processes(tmp_path):
    path = tmp_path / "lock"
    code = "import sys; from eatnas_db.file_lock import try_lock; print(try_lock(open(sys.argv[1], 'a')))"

    def try_elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout

    with exclusive_lock(path), path.open() as file:
        assert try_elsewhere() == "False\n"
        assert is_locked(file)
    assert try_elsewhere() == "True\n"
    with path.open() as file:
        assert not is_locked(file)
        assert try_lock(file)
