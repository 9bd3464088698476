"""Full disks: work pauses with one clear message, goes on by itself when there is room, and nothing is torn.

Real small disks where this machine lets us mount one, and limits on the size of files, which go everywhere.
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
from support.simulated_worker import SIMULATED_WORKER
from support.slots import progress_of, running_pid

pytestmark = pytest.mark.slow

QUICK = Timeouts(tick=0.02, database=0.1, restart=0.05)
PACED = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.02")
FULL_SECONDS = 1.0
"""For so long a disk stays full after that was told."""
SECONDS = 60
SUPERVISE = """
import sys
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import load_settings
settings = load_settings({}, sys.argv[1])
told = [None]
def tell(supervisor):
    if supervisor.trouble != told[0]:
        told[0] = supervisor.trouble
        print(told[0], flush=True)
launcher = Launcher(settings.logs, sys.argv[2:])
timeouts = Timeouts(tick=0.02, database=0.1)
Supervisor(open_record(settings.database_url), settings, launcher, slots=2, host_name="here", only="s",
           timeouts=timeouts).run(tell)
"""


class Disk:
    """A disk of few megabytes and few files, that can be filled and emptied."""

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
def calm(tmp_path_factory, home, supervise):
    return supervise(home(tmp_path_factory.mktemp("calm") / "home"))


def waiting(settings):
    with read_transaction(open_record(settings.database_url)) as connection:
        return connection.execute(select(search.c.waiting)).scalar_one()


def nothing_is_torn_or_blamed(settings):
    __tracebackhide__ = True
    with read_transaction(open_record(settings.database_url)) as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
        assert set(connection.execute(select(attempt.c.outcome)).scalars()) == {"scored"}
    assert waiting(settings) is None


class FullForAWhile:
    """Fills when something trains, and makes room some time after the supervisor has told of it."""

    def __init__(self, fill, make_room) -> None:
        self.fill, self.make_room = fill, make_room
        self.told: list[str] = []
        self.filled = self.roomy = False
        self._told_at = 0.0

    def __call__(self, supervisor) -> None:
        if not self.filled and any(progress_of(slot) for slot in supervisor.slots):
            self.filled = True
            self.fill(supervisor)
        if supervisor.trouble is not None and supervisor.trouble not in self.told:
            self.told.append(supervisor.trouble)
            self._told_at = self._told_at or time.monotonic()
        if self.told and not self.roomy and time.monotonic() - self._told_at > FULL_SECONDS:
            self.roomy = True
            self.make_room(supervisor)


def test_work_waits_for_room_for_checkpoints(tmp_path, home, supervise, calm, disk):
    settings = home(tmp_path / "home")
    settings.artifacts.symlink_to(disk.folder)
    seen = set()
    watch = FullForAWhile(lambda _: disk.fill(), lambda _: (seen.add(waiting(settings)), disk.empty()))
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == calm
    assert watch.roomy
    assert seen == set(watch.told) == {f"the disk of {settings.artifacts} is full; training goes on when there is room"}
    nothing_is_torn_or_blamed(settings)


def test_work_waits_for_room_for_the_record(tmp_path, home, supervise, calm, disk):
    for folder in ("artifacts", "logs"):
        (tmp_path / folder).mkdir()
    settings = home(disk.folder / "home")
    settings.artifacts.symlink_to(tmp_path / "artifacts")
    settings.logs.symlink_to(tmp_path / "logs")
    watch = FullForAWhile(lambda _: disk.fill(), lambda _: disk.empty())
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == calm
    assert watch.roomy
    assert watch.told == [
        f"the disk of {settings.database_file} is full; free some space, then try again: no data is lost"
    ]
    nothing_is_torn_or_blamed(settings)


def test_a_daemon_that_finds_the_records_disk_full_says_so_and_starts_when_there_is_room(
    tmp_path, home, supervise, calm, disk
):
    settings = home(disk.folder / "home")
    disk.fill()
    with pytest.raises(RecordError, match="is full; free some space"):
        supervise(settings)
    disk.empty()
    assert supervise(settings) == calm


def test_a_full_disk_of_logs_costs_logs_and_no_training(tmp_path, home, supervise, calm, disk):
    settings = home(tmp_path / "home")
    settings.logs.symlink_to(disk.folder)
    disk.fill()
    assert supervise(settings, program=PACED, timeouts=QUICK) == calm
    nothing_is_torn_or_blamed(settings)


def test_work_waits_while_everything_is_full_at_once(tmp_path, home, supervise, calm, disk):
    settings = home(disk.folder / "home")
    watch = FullForAWhile(lambda _: disk.fill(), lambda _: disk.empty())
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == calm
    assert watch.roomy
    nothing_is_torn_or_blamed(settings)


def limit(pid, size):
    hard = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


linux = pytest.mark.skipif(sys.platform != "linux", reason="other processes are limited by Linux's prlimit")


@linux
def test_a_worker_that_may_write_no_more_waits(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "home")

    def workers(supervisor):
        return [running_pid(slot) for slot in supervisor.slots if running_pid(slot)]

    watch = FullForAWhile(
        lambda now: [limit(pid, 16) for pid in workers(now)], lambda now: [limit(pid, None) for pid in workers(now)]
    )
    assert supervise(settings, program=PACED, on_tick=watch, timeouts=QUICK) == calm
    assert watch.roomy
    assert watch.told == [f"the disk of {settings.artifacts} is full; training goes on when there is room"]
    nothing_is_torn_or_blamed(settings)


@linux
def test_a_supervisor_that_may_write_no_more_waits(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "home")
    slow = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
    command = [sys.executable, "-c", SUPERVISE, str(settings.home), *slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + SECONDS
        with read_transaction(open_record(settings.database_url)) as connection:
            count = select(attempt.c.number).where(attempt.c.outcome == "scored")
        while time.monotonic() < deadline:
            with read_transaction(open_record(settings.database_url)) as connection:
                if len(connection.execute(count).all()) >= 2:
                    break
        limit(process.pid, 0)
        assert process.stdout is not None
        told = process.stdout.readline()
        limit(process.pid, None)
        # Workers started meanwhile have inherited the limit.
        for worker in psutil.Process(process.pid).children():
            limit(worker.pid, None)
        assert process.stdout.read() == "None\n"
        assert process.wait(SECONDS) == 0
    assert str(settings.database_file) in told
    assert supervise(settings) == calm
    nothing_is_torn_or_blamed(settings)
