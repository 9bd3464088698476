"""When a disk is full, training waits with a clear message, continues when there is space, and damages no file.

If this machine permits mounts, the tests use small disks. Otherwise, they limit the size of files.
"""

import contextlib
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from support.searches import fetch_rows
from support.simulated_worker import SIMULATED_WORKER
from support.slots import progress_of, running_pid
from support.waiting import eventually

pytestmark = pytest.mark.slow

QUICK = Timeouts(tick=0.02, database=0.1, restart=0.05)
PACED = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.02")
FULL_SECONDS = 1.0
"""The time in seconds for which a disk stays full after the supervisor has reported the problem."""
SECONDS = 200
SUPERVISE = """
import sys
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import load_settings
settings = load_settings({}, sys.argv[1])
reported = [None]
def tell(supervisor):
    if supervisor.trouble != reported[0]:
        reported[0] = supervisor.trouble
        print(reported[0], flush=True)
launcher = Launcher(settings.logs, sys.argv[2:])
timeouts = Timeouts(tick=0.02, database=0.1)
Supervisor(open_record(settings.database_url), settings, launcher, slots=2, host_name="here", only="s",
           timeouts=timeouts).run(tell)
"""


class Disk:
    """A disk of a few megabytes that a test fills and empties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with contextlib.suppress(OSError):
            for number in range(10_000):
                (self.folder / f"filler-{number}").touch()

    def empty(self) -> None:
        for file in self.folder.glob("filler*"):
            file.unlink()


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=200", "eatnas-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, home, supervise):
    return supervise(home(tmp_path_factory.mktemp("calm") / "home"))


def waiting(settings):
    with read_transaction(open_record(settings.database_url)) as connection:
        return connection.execute(select(search.c.waiting)).scalar_one()


def assert_nothing_is_damaged(settings):
    __tracebackhide__ = True
    with read_transaction(open_record(settings.database_url)) as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
        assert set(connection.execute(select(attempt.c.outcome)).scalars()) == {"scored"}
    assert waiting(settings) is None


class TemporarilyFull:
    """Fills a disk while a training runs, and frees it some time after the supervisor reports the problem."""

    def __init__(self, fill, free) -> None:
        self.fill, self.free = fill, free
        self.reported: list[str] = []
        self.filled = self.freed = False
        self._reported_at = 0.0

    def __call__(self, supervisor) -> None:
        if not self.filled and any(progress_of(slot) for slot in supervisor.slots):
            self.filled = True
            self.fill(supervisor)
        if supervisor.trouble is not None and supervisor.trouble not in self.reported:
            self.reported.append(supervisor.trouble)
            self._reported_at = self._reported_at or time.monotonic()
        if self.reported and not self.freed and time.monotonic() - self._reported_at > FULL_SECONDS:
            self.freed = True
            self.free(supervisor)


def test_training_waits_while_checkpoint_disk_is_full(tmp_path, home, supervise, expected, disk):
    settings = home(tmp_path / "home")
    settings.artifacts.symlink_to(disk.folder)
    seen = set()
    watch = TemporarilyFull(lambda _: disk.fill(), lambda _: (seen.add(waiting(settings)), disk.empty()))
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == expected
    assert watch.freed
    assert (
        seen
        == set(watch.reported)
        == {f"the disk of {settings.artifacts} is full; training continues when it has free space"}
    )
    assert_nothing_is_damaged(settings)


def test_training_waits_while_database_disk_is_full(tmp_path, home, supervise, expected, disk):
    for folder in ("artifacts", "logs"):
        (tmp_path / folder).mkdir()
    settings = home(disk.folder / "home")
    settings.artifacts.symlink_to(tmp_path / "artifacts")
    settings.logs.symlink_to(tmp_path / "logs")
    watch = TemporarilyFull(lambda _: disk.fill(), lambda _: disk.empty())
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == expected
    assert watch.freed
    assert watch.reported == [
        f"the disk of {settings.database_file} is full; free some space, then try again: no data is lost"
    ]
    assert_nothing_is_damaged(settings)


def test_daemon_does_not_start_on_a_full_disk(tmp_path, home, supervise, expected, disk):
    settings = home(disk.folder / "home")
    disk.fill()
    with pytest.raises(RecordError, match="is full; free some space"):
        supervise(settings)
    disk.empty()
    assert supervise(settings) == expected


def test_full_log_disk_does_not_stop_training(tmp_path, home, supervise, expected, disk):
    settings = home(tmp_path / "home")
    settings.logs.symlink_to(disk.folder)
    disk.fill()
    assert supervise(settings, program=PACED, timeouts=QUICK) == expected
    assert_nothing_is_damaged(settings)


def test_training_waits_while_the_only_disk_is_full(tmp_path, home, supervise, expected, disk):
    settings = home(disk.folder / "home")
    watch = TemporarilyFull(lambda _: disk.fill(), lambda _: disk.empty())
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == expected
    assert watch.freed
    assert_nothing_is_damaged(settings)


def limit(pid, size):
    hard = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


linux = pytest.mark.skipif(sys.platform != "linux", reason="other processes are limited by Linux's prlimit")


@linux
def test_worker_over_file_size_limit_waits(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "home")

    def workers(supervisor):
        return [running_pid(slot) for slot in supervisor.slots if running_pid(slot)]

    watch = TemporarilyFull(
        lambda now: [limit(pid, 16) for pid in workers(now)], lambda now: [limit(pid, None) for pid in workers(now)]
    )
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == expected
    assert watch.freed
    assert watch.reported == [f"the disk of {settings.artifacts} is full; training continues when it has free space"]
    assert_nothing_is_damaged(settings)


@linux
def test_supervisor_over_file_size_limit_waits(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "home")
    slow = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
    command = [sys.executable, "-c", SUPERVISE, str(settings.home), *slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        scored = select(attempt.c.number).where(attempt.c.outcome == "scored")
        eventually(lambda: len(fetch_rows(settings, scored)) >= 2, SECONDS)
        limit(process.pid, 0)
        assert process.stdout is not None
        output = process.stdout.readline()
        limit(process.pid, None)
        # Workers that were started while the limit was set have inherited it.
        for worker in psutil.Process(process.pid).children():
            limit(worker.pid, None)
        assert process.stdout.read() == "None\n"
        assert process.wait(SECONDS) == 0
    assert str(settings.database_file) in output
    assert supervise(settings) == expected
    assert_nothing_is_damaged(settings)
