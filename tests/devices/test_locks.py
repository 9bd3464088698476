"""Lock files of devices that real processes compete for."""

import os
import signal
import sys

import psutil
import pytest

from eatnas_daemon.devices.availability import Cause, check_availability
from eatnas_daemon.devices.locks import acquire_lock, find_lock_owner, lock_path
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.lock_holder import current_process
from eatnas_db.errors import ConflictError
from support.devices import UUID
from support.fake_nvml import FakeGpu

LOCKING = """
import sys
from pathlib import Path
from eatnas_daemon.devices.locks import acquire_lock
lock = acquire_lock(sys.argv[1], Path(sys.argv[2]))
print("locked" if lock else "refused", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start_locking(tmp_path, start_process):
    """Return a function that starts a process which locks the device. The function returns the process and its first
    line of output.
    """

    def start():
        process = start_process(sys.executable, "-c", LOCKING, UUID, str(tmp_path))
        return process, process.stdout.readline().strip()

    return start


def test_second_daemon_is_refused_and_learns_the_owner(tmp_path, probe_gpus, start_locking):
    first, answer = start_locking()
    assert answer == "locked"
    assert start_locking()[1] == "refused"
    (device,) = probe_gpus(FakeGpu(UUID))
    availability = check_availability(device, DeviceOptions())
    user = psutil.Process().username()
    assert availability.cause is Cause.LOCKED
    assert availability.reason == f"locked by another eatnas-db daemon ({user}, pid {first.pid})"
    assert acquire_lock(UUID, tmp_path) is None
    assert acquire_lock("GPU-2", tmp_path) is not None


def test_released_device_can_be_locked_again(tmp_path, start_locking):
    first, answer = start_locking()
    assert answer == "locked"
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "released\n"
    assert find_lock_owner(UUID, tmp_path) is None
    assert acquire_lock(UUID, tmp_path) is not None


def test_killed_daemon_loses_its_lock(tmp_path, start_locking):
    first, answer = start_locking()
    assert answer == "locked"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert find_lock_owner(UUID, tmp_path) is None
    assert acquire_lock(UUID, tmp_path) is not None


def test_every_user_can_lock_a_lock_file(tmp_path):
    before = os.umask(0o077)
    try:
        assert acquire_lock(UUID, tmp_path) is not None
    finally:
        os.umask(before)
    assert lock_path(UUID, tmp_path).stat().st_mode & 0o777 == 0o666


def test_removed_lock_file_is_created_again(tmp_path):
    first = acquire_lock(UUID, tmp_path)
    lock_path(UUID, tmp_path).unlink()
    assert acquire_lock(UUID, tmp_path) is not None
    first.release()
    assert find_lock_owner(UUID, tmp_path).process == current_process()


def test_symlink_or_fifo_as_lock_file_is_refused(tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    lock_path(UUID, tmp_path).symlink_to(target)
    with pytest.raises(ConflictError, match="cannot open lock file"):
        acquire_lock(UUID, tmp_path)
    assert "cannot open lock file" in str(find_lock_owner(UUID, tmp_path))
    os.mkfifo(lock_path("GPU-2", tmp_path))
    with pytest.raises(ConflictError, match="cannot open lock file"):
        acquire_lock("GPU-2", tmp_path)
    assert target.read_text() == "kept"


@pytest.mark.parametrize("content", ["", "garbage", "[1]", '{"pid": "x"}'])
def test_lock_holds_with_any_file_content(tmp_path, content):
    lock = acquire_lock(UUID, tmp_path)
    lock_path(UUID, tmp_path).write_text(content)
    assert str(find_lock_owner(UUID, tmp_path)) == "owner unknown, pid unknown"
    lock.release()
