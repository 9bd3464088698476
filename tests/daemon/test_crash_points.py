"""A process is killed at each of its writes in turn, and the search always ends with the same result."""

import shutil
import subprocess
import sys

import pytest
from sqlalchemy import select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.schema.trainings import attempt, lease
from eatnas_db.settings import load_settings
from support.simulated_worker import SIMULATED_WORKER

SMALL = {
    "training__epochs": 2,
    "evolution__population": 2,
    "evolution__tournament": 2,
    "evolution__lag": 1,
    "budget__candidates": 4,
}
PROGRAM = SIMULATED_WORKER
SHARDS = 4
"""The number of tests among which all crash points are divided, so that each test stays within its time limit."""
SAMPLED = 4
"""The number of crash points in a run without slow tests."""
CHILD = """
import os, signal, sys
from sqlalchemy import event
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import load_settings

def supervise(home, die_at):
    left = [die_at]
    committed = [False]

    def write():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(kind, arguments):
        if kind == "os.remove" and "/artifacts/" in str(arguments[0]):
            write()

    settings = load_settings({}, home)
    engine = open_record(settings.database_url)

    @event.listens_for(engine, "before_cursor_execute")
    def statement(connection, cursor, sql, parameters, context, many):
        if sql.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE"):
            write()

    @event.listens_for(engine, "commit")
    def before(connection):
        committed[0] = True
        write()

    @event.listens_for(engine, "checkin")
    def after(connection, record):
        if committed[0]:
            committed[0] = False
            write()

    sys.addaudithook(audit)
    timeouts = Timeouts(tick=0.02, checkpoint_cleanup=0.0)
    Supervisor(
        engine, settings, Launcher(settings.logs, PROGRAM), slots=2, host_name="here", only="s", timeouts=timeouts
    ).run()
    print(die_at - left[0])

for argument in sys.argv[2:]:
    home, die_at = argument.rsplit(":", 1)
    child = os.fork()
    if child == 0:
        supervise(home, int(die_at))
        sys.stdout.flush()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL)
"""


def copies_of(folder, home, **spec):
    """Return a function that copies a home with a search that has not started."""
    home(folder / "original", **spec)

    def copy(name):
        shutil.copytree(folder / "original", folder / name)
        return load_settings({}, str(folder / name))

    return copy


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, home):
    return copies_of(tmp_path_factory.mktemp("fresh"), home, **SMALL)


@pytest.fixture(scope="module")
def expected(fresh, supervise):
    return supervise(fresh("calm"), program=PROGRAM)


def supervise_until_killed(*crash_points):
    """Supervise each home in a process that is killed at a write. Return the outputs of the processes that were not
    killed.
    """
    script = CHILD.replace("PROGRAM", repr(PROGRAM))
    arguments = [f"{settings.home}:{number}" for settings, number in crash_points]
    return subprocess.run(
        [sys.executable, "-c", script, "-", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()


@pytest.fixture(scope="module")
def writes(fresh):
    """Return the number of writes of a supervisor during the whole search."""
    (count,) = supervise_until_killed((fresh("counted"), 10**9))
    assert int(count) > 100
    return int(count)


def assert_same_result(settings, supervise, expected):
    __tracebackhide__ = True
    assert supervise(settings, program=PROGRAM) == expected
    with read_transaction(open_record(settings.database_url)) as connection:
        assert connection.execute(select(lease)).all() == []
        assert connection.execute(select(attempt).where(attempt.c.ended_at.is_(None))).all() == []
        scored = list(connection.execute(select(attempt.c.candidate_id).where(attempt.c.outcome == "scored")).scalars())
        assert sorted(scored) == [1, 2, 3, 4]
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]


def test_supervisor_killed_at_sampled_writes_loses_nothing(fresh, supervise, expected, writes):
    # Leave out the last writes: the number of writes depends on the supervisor's speed, so another run may not reach
    # them.
    numbers = range(3, writes * 3 // 4, writes // SAMPLED)
    crash_points = [(fresh(f"sample-{number}"), number) for number in numbers]
    assert supervise_until_killed(*crash_points) == []
    for settings, _ in crash_points:
        assert_same_result(settings, supervise, expected)


@pytest.mark.parametrize("schedule", ["whole", "rung"])
@pytest.mark.parametrize("step", [pytest.param(60, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.soak)])
def test_supervisor_of_rungs_killed_at_sampled_writes_loses_nothing(tmp_path, home, supervise, schedule, step):
    rungs = {"rungs": [1], "keep": 0.5, "schedule": schedule}
    fresh = copies_of(tmp_path, home, **SMALL, evolution__fidelity=rungs)
    expected = supervise(fresh("calm"), program=PROGRAM)
    (count,) = supervise_until_killed((fresh("counted"), 10**9))
    crash_points = [(fresh(str(number)), number) for number in range(40, int(count) * 3 // 4, step)]
    assert supervise_until_killed(*crash_points) == []
    for settings, _ in crash_points:
        assert_same_result(settings, supervise, expected)


@pytest.mark.soak
@pytest.mark.parametrize("share", range(SHARDS))
def test_supervisor_killed_at_every_write_loses_nothing(fresh, supervise, expected, writes, share):
    crash_points = [(fresh(f"every-{number}"), number) for number in range(1 + share, writes + 1, SHARDS)]
    supervise_until_killed(*crash_points)
    for settings, _ in crash_points:
        assert_same_result(settings, supervise, expected)
        shutil.rmtree(settings.home)


def survives(settings, number, supervise, expected):
    """Kill the worker of candidate 3 at its write `number`. Return whether the worker ended before this write."""
    assert supervise(settings, program=(*PROGRAM, "--kill-on", "3", "--kill-at-write", str(number))) == expected
    with read_transaction(open_record(settings.database_url)) as connection:
        query = select(attempt.c.outcome).where(attempt.c.candidate_id == 3).order_by(attempt.c.number)
        outcomes = list(connection.execute(query).scalars())
    shutil.rmtree(settings.home)
    assert outcomes in (["scored"], ["lost", "scored"])
    return outcomes == ["scored"]


@pytest.mark.parametrize("number", [1, 4, 6, 7])
def test_worker_killed_at_sampled_writes_loses_nothing(fresh, supervise, expected, number):
    assert not survives(fresh(f"worker-sample-{number}"), number, supervise, expected)


@pytest.mark.soak
def test_worker_killed_at_every_write_loses_nothing(fresh, supervise, expected):
    number = 1
    while not survives(fresh(f"worker-{number}"), number, supervise, expected):
        number += 1
    # The worker writes a phase, 7 times in each of 2 epochs, and the end. In an epoch, it writes the result and the
    # progress, and then a checkpoint: it creates the file (two audit events), renames it, syncs it, and reports it.
    assert number - 1 == 1 + 2 * 7 + 1
