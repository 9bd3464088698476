"""Signals are sent only to the process that holds the lock."""

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from eatnas_daemon.daemon_lock import find_record_user, hold_daemon_lock
from eatnas_daemon.lock_holder import UNKNOWN_PROCESS, LockHolder, current_process, parse_holder
from eatnas_db.errors import ConflictError


@pytest.fixture
def child():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def holder(child):
    """Return the child as the holder of a lock."""
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    return replace(current_process(), pid=child.pid, started=started)


def test_process_that_holds_the_lock_gets_the_signal(child, holder):
    assert holder.is_running
    assert holder.send_signal(signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    assert not holder.is_running
    assert not holder.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "change", [{"started": "1"}, {"started": ""}, {"boot": "b"}, {"boot": ""}, {"namespace": "pid:[1]"}, {"pid": -1}]
)
def test_other_process_gets_no_signal(child, holder, change):
    stranger = replace(holder, **change)
    assert not stranger.is_running
    assert not stranger.send_signal(signal.SIGKILL)
    assert child.poll() is None


def test_suspended_process_is_recognised(child, holder):
    assert not holder.is_suspended
    child.send_signal(signal.SIGSTOP)
    while not holder.is_suspended:
        assert child.poll() is None
    child.send_signal(signal.SIGCONT)


def test_holder_survives_its_lock_file(holder):
    assert parse_holder(holder.to_json()) == holder
    assert parse_holder({**holder.to_json(), "program": "a daemon", "new": 1}) == holder


@pytest.mark.parametrize("content", [None, [], {}, {"pid": "7"}, {"pid": True}, {"pid": None}, "7", 7])
def test_other_content_names_no_holder(content):
    assert parse_holder(content) is None


def test_message_names_the_host_of_a_foreign_process(holder):
    assert str(holder) == f"pid {holder.pid}"
    foreign = replace(holder, boot="b", host="box")
    assert str(foreign) == f"pid {holder.pid} on box, another machine or container"
    assert str(LockHolder(7, "", "", "", "")) == "pid 7"
    assert str(UNKNOWN_PROCESS) == "pid unknown"


@pytest.mark.parametrize("content", ["", "garbage", "[1]"])
def test_held_lock_without_a_name_is_not_taken_for_free(tmp_path, content):
    lock_file = tmp_path / "record.lock"
    with hold_daemon_lock(lock_file):
        lock_file.write_text(content)
        assert str(find_record_user(lock_file)) == "an unknown process (pid unknown)"
        with pytest.raises(ConflictError, match="fuser"), hold_daemon_lock(lock_file):
            pass
    assert find_record_user(lock_file) is None
