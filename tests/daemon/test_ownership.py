"""One daemon owns a record, under all names of the record's file and only while the file exists."""

import os
import shutil
import subprocess
import sys

import pytest
from sqlalchemy import select

from eatnas_daemon.daemon_lock import LinkedRecordError, find_record_user, hold_record
from eatnas_db import hosts
from eatnas_db.database.engine import open_record
from eatnas_db.database.locks import task_lock
from eatnas_db.database.transactions import transaction
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.trainings import attempt, lease
from eatnas_db.settings import load_settings
from eatnas_db.transitions import lease_next
from eatnas_db.urls import sqlite_url
from support.searches import fetch_rows
from support.simulated_worker import SIMULATED_WORKER

ENDLESS = (*SIMULATED_WORKER, "--seconds-per-epoch", "600")
HOLD = """
import sys
from eatnas_daemon.daemon_lock import hold_record
from eatnas_db.settings import load_settings
with hold_record(load_settings({}, sys.argv[1], sys.argv[2])):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Return a function that holds a record in a new process."""
    processes = []

    def hold(settings):
        command = [sys.executable, "-c", HOLD, str(settings.home), settings.database_url]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        processes[-1].stdout.readline()
        return processes[-1]

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def reached_by(settings, file):
    """Return the settings of another home with the same database through another path."""
    return load_settings({}, str(settings.home.parent / "other"), sqlite_url(file))


@pytest.mark.parametrize("kind", ["file", "folder", "chain", "dots"])
def test_link_to_the_database_shares_its_lock(tmp_path, home, holder, kind):
    settings = home(tmp_path / "home")
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link.db"
    if kind == "file":
        link.symlink_to(settings.database_file)
    elif kind == "folder":
        (tmp_path / "door").symlink_to(settings.home)
        link = tmp_path / "door" / "eatnas.db"
    elif kind == "chain":
        (tmp_path / "second.db").symlink_to(settings.database_file)
        link.symlink_to("../second.db")
    else:
        link = tmp_path / "other" / ".." / "home" / "eatnas.db"
    linked = reached_by(settings, link)
    process = holder(linked)
    assert find_record_user(settings.lock_file).process.pid == process.pid
    with pytest.raises(ConflictError, match=f"pid {process.pid}"), hold_record(settings):
        pass
    with task_lock(open_record(linked.database_url), "mlflow"):
        pass
    assert [file.name for file in (tmp_path / "other").iterdir() if file != link] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the two kinds of locks apart")
def test_lock_follows_the_file_under_another_name(tmp_path, home, holder):
    settings = home(tmp_path / "home")
    moved = tmp_path / "moved.db"
    process = holder(settings)
    settings.database_file.rename(moved)
    with pytest.raises(LinkedRecordError, match="through another path"), hold_record(reached_by(settings, moved)):
        pass
    process.kill()
    process.wait()
    with hold_record(reached_by(settings, moved)):
        pass
    with hold_record(reached_by(settings, moved)):
        pass


def test_database_with_two_names_is_refused(tmp_path, home):
    settings = home(tmp_path / "home")
    second = tmp_path / "second.db"
    os.link(settings.database_file, second)
    for file in (settings.database_file, second):
        with pytest.raises(RecordError, match=r"2 names \(hard links\)"):
            open_record(sqlite_url(file))
    second.unlink()
    open_record(settings.database_url)


def delete_home(settings):
    shutil.rmtree(settings.home)


def replace_home(settings):
    copy = settings.home.with_name("copy")
    shutil.copytree(settings.home, copy)
    settings.home.rename(settings.home.with_name("away"))
    copy.rename(settings.home)


def delete_database(settings):
    settings.database_file.unlink()


def replace_database(settings):
    copy = settings.home / "copy"
    shutil.copy(settings.database_file, copy)
    copy.rename(settings.database_file)


def delete_lock(settings):
    settings.lock_file.unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (delete_home, "the home {home} was deleted or moved"),
        (replace_home, "the home {home} was replaced"),
        (delete_database, "the database {home}/eatnas.db was deleted or moved"),
        (replace_database, "the database {home}/eatnas.db was replaced"),
        (delete_lock, "the lock file {home}/eatnas.db.lock was deleted or moved"),
    ],
)
def test_daemon_ends_when_its_record_is_taken_away(tmp_path, home, supervise, change, words):
    settings = home(tmp_path / "home")
    changed = []

    def take_away(supervisor):
        if not changed and any(slot.busy for slot in supervisor.slots):
            change(settings)
            changed.append(change)

    message = words.format(home=settings.home)
    with pytest.raises(ConflictError, match=f"^{message} while it was in use; "), hold_record(settings):
        supervise(settings, program=ENDLESS, on_tick=take_away)
    assert changed
    assert settings.home.exists() == (change is not delete_home)
    if change is replace_home:
        assert not fetch_rows(settings, select(worker).where(worker.c.ended_at.is_not(None)))


def test_leases_left_under_another_host_name_are_taken_back(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home")
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        host_id = hosts.register_host(connection, "container 1", 0.0)
        device_id = hosts.register_device(connection, host_id, hosts.cpu_uuid("container 1"), "cpu", "CPU")
        worker_id = hosts.record_worker_start(connection, device_id, 0, 7, 0.0)
        assert lease_next(connection, 1, host_id=host_id, worker_id=worker_id, now=0.0)
    supervise(settings, program=fast)
    assert {row.state for row in fetch_rows(settings, select(candidate.c.state))} == {"scored"}
    assert fetch_rows(settings, select(lease)) == []
    (left,) = fetch_rows(settings, select(worker.c.ending).where(worker.c.id == worker_id))
    assert left.ending == "the daemon was restarted"
    (lost,) = fetch_rows(settings, select(attempt.c.failure).where(attempt.c.worker_id == worker_id))
    assert lost.failure == "lost"
