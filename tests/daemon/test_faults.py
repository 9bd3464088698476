"""Faults of workers, checkpoints, the clock and the database, and the recovery of a supervisor."""

import errno
import os
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select, update

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db import leases, transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, checkpoint, lease
from support.searches import fetch_rows
from support.simulated_worker import SIMULATED_WORKER
from support.slots import candidate_of, is_training, progress_of, running_pid

SLOW = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
"""A simulated worker so slow that even a supervisor on a busy machine sees its first epochs."""
QUICK = Timeouts(tick=0.02, database=0.1, silence=3.0, stop=3.0, restart=0.05, checkpoint_cleanup=0.0)


def events(settings, kind):
    return fetch_rows(settings, select(event).where(event.c.kind == kind).order_by(event.c.id))


def outcomes(settings, candidate_id):
    query = select(attempt.c.outcome, attempt.c.failure).where(attempt.c.candidate_id == candidate_id)
    return [tuple(row) for row in fetch_rows(settings, query.order_by(attempt.c.number))]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, home, supervise):
    """Return the fingerprint of the search without faults."""
    return supervise(home(tmp_path_factory.mktemp("calm") / "home"))


@pytest.mark.slow
def test_hanging_training_is_killed_with_children_and_retried(tmp_path, home, supervise, fast, expected):
    settings = home(tmp_path / "hang")
    children = set()

    def observe(supervisor):
        for slot in supervisor.slots:
            if running_pid(slot) and psutil.pid_exists(running_pid(slot)):
                children.update(psutil.Process(running_pid(slot)).children())

    assert supervise(settings, program=(*fast, "--hang-on", "9"), on_tick=observe, timeouts=QUICK) == expected
    assert outcomes(settings, 9) == [("failed", "hang"), ("scored", None)]
    assert children
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_worker_that_ignores_a_stop_request_is_killed_without_blame(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "deaf")

    def pause(supervisor):
        if any(candidate_of(slot) == 3 and progress_of(slot) for slot in supervisor.slots):
            with transaction(open_record(settings.database_url)) as connection:
                connection.execute(update(search).values(wish="paused"))

    timeouts = Timeouts(tick=0.02, database=0.1, silence=60, stop=0.3)
    supervise(settings, program=(*fast, "--hang-on", "3"), on_tick=pause, timeouts=timeouts)
    assert outcomes(settings, 3) == [("lost", "lost")]
    (row,) = fetch_rows(settings, select(candidate.c.own_failures, candidate.c.state).where(candidate.c.id == 3))
    assert tuple(row) == (0, "pending")
    assert fetch_rows(settings, select(lease)) == []


@pytest.mark.slow
def test_candidate_that_always_fails_does_not_stop_the_search(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "poison")
    wall = lambda: time.time() * 1000  # shortens the back-off to a thousandth  # noqa: E731
    supervise(settings, program=(*fast, "--fail-on", "9"), timeouts=QUICK, wall=wall)
    tried = outcomes(settings, 9)
    # Four attempts are made: the first one does not count, because it made progress.
    assert tried == [("failed", "exception")] * 4
    (state,) = fetch_rows(settings, select(candidate.c.state).where(candidate.c.id == 9))
    assert state.state == "failed"
    (row,) = fetch_rows(settings, select(search))
    assert (row.settled, row.scored) == (24, 23)
    assert row.finished_at is not None


@pytest.mark.slow
def test_candidate_over_its_time_limit_is_not_retried(tmp_path, home, supervise, fast):
    # The training takes much longer than its limit, so that even a slow supervisor notices before the training ends.
    settings = home(tmp_path / "slow", budget__candidate_seconds=0.2, budget__candidates=6, training__epochs=400)
    supervise(settings, program=(*SIMULATED_WORKER, "--seconds-per-epoch", "0.05"), timeouts=QUICK)
    failures = fetch_rows(settings, select(attempt.c.failure, attempt.c.number))
    assert {tuple(row) for row in failures} == {("time_limit", 1)}


def test_workers_that_exit_before_ready_are_reported(tmp_path, home, supervise):
    settings = home(tmp_path / "broken")
    seen = set()

    def observe(supervisor):
        seen.add(supervisor.trouble)
        if supervisor.trouble is not None and supervisor.slots[0].failed_starts >= 3:
            supervisor.stop()

    supervise(settings, slots=1, program=("-m", "eatnas_training.no_such_module"), on_tick=observe, timeouts=QUICK)
    (message,) = seen - {None}
    assert "workers end before they are ready" in message
    assert "worker-0.log" in message


def test_cancelled_candidate_stops_training_at_once(tmp_path, home, supervise):
    settings = home(tmp_path / "cancelled", budget__candidates=6)
    engine = open_record(settings.database_url)
    cancelled = []

    def cancel(supervisor):
        if not cancelled and any(candidate_of(slot) == 2 for slot in supervisor.slots):
            with transaction(engine) as connection:
                transitions.cancel(connection, 2, time.time())
            cancelled.append(time.monotonic())
        working = [candidate_of(slot) for slot in supervisor.slots]
        if len(cancelled) == 1 and 2 not in working:
            cancelled.append(time.monotonic())
            supervisor.stop()

    slow = (*SIMULATED_WORKER, "--seconds-per-epoch", "600")
    supervise(settings, program=slow, on_tick=cancel, timeouts=Timeouts(tick=0.02, database=0.1))
    assert cancelled[1] - cancelled[0] < 200
    ended = select(attempt.c.outcome, attempt.c.device_seconds).where(attempt.c.candidate_id == 2)
    ((outcome, seconds),) = fetch_rows(settings, ended)
    assert outcome == "cancelled"
    assert seconds > 0  # the time counts although no epoch is recorded
    total = select(func.sum(attempt.c.device_seconds))
    assert fetch_rows(settings, select(search.c.device_seconds)) == [pytest.approx(fetch_rows(settings, total)[0])]


@pytest.mark.slow
def test_locked_database_delays_but_loses_nothing(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "held")
    other = sqlite3.connect(settings.database_file, isolation_level=None)
    seen = set()
    held_since = []

    def hold(supervisor):
        seen.add(supervisor.trouble)
        if not held_since and any(progress_of(slot) for slot in supervisor.slots):
            other.execute("BEGIN IMMEDIATE")
            held_since.append(time.monotonic())
        if held_since and other.in_transaction and time.monotonic() - held_since[0] > 1:
            other.execute("ROLLBACK")

    assert supervise(settings, on_tick=hold, busy_seconds=0.1, timeouts=QUICK) == expected
    (message,) = seen - {None}
    assert "locked by another program" in message


@pytest.mark.slow
def test_frozen_worker_is_killed_and_replaced(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "frozen")
    frozen = []

    def freeze(supervisor):
        for slot in supervisor.slots:
            if not frozen and is_training(slot) and candidate_of(slot) >= 5 and running_pid(slot):
                frozen.append(psutil.Process(running_pid(slot)))
                frozen[0].send_signal(signal.SIGSTOP)

    assert supervise(settings, program=SLOW, on_tick=freeze, timeouts=QUICK) == expected
    assert [row.kind for row in events(settings, "taken_back")] == ["taken_back"]
    assert not frozen[0].is_running() or frozen[0].status() == psutil.STATUS_ZOMBIE


def test_suspended_worker_does_not_count_against_its_candidate(tmp_path, home, supervise):
    settings = home(tmp_path / "suspended", budget__candidates=6)

    def freeze(supervisor):
        for slot in supervisor.slots:
            if (
                is_training(slot)
                and slot.training.assignment.leased.token == leases.LeaseToken(2, 1)
                and running_pid(slot)
            ):
                psutil.Process(running_pid(slot)).send_signal(signal.SIGSTOP)

    supervise(settings, program=SLOW, on_tick=freeze, timeouts=QUICK)
    assert outcomes(settings, 2) == [("lost", "lost"), ("scored", None)]
    (row,) = fetch_rows(settings, select(attempt.c.message).where(attempt.c.candidate_id == 2, attempt.c.number == 1))
    assert "suspended" in row.message


@pytest.mark.slow
def test_worker_dead_during_database_lock_gets_no_message(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "held-and-killed")
    other = sqlite3.connect(settings.database_file, isolation_level=None)
    ended_at = []

    def interfere(supervisor):
        working = [slot for slot in supervisor.slots if progress_of(slot) and running_pid(slot)]
        if not ended_at and working and not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")
            psutil.Process(running_pid(working[0])).kill()
        if not ended_at and any(slot.worker and slot.worker.ended for slot in supervisor.slots):
            ended_at.append(time.monotonic())
        # Several heartbeats are due before the end of the worker is recorded.
        if ended_at and other.in_transaction and time.monotonic() - ended_at[0] > 1:
            other.execute("ROLLBACK")

    timeouts = replace(QUICK, lease=0.6, silence=30.0)
    assert supervise(settings, on_tick=interfere, busy_seconds=0.05, timeouts=timeouts) == expected
    assert ended_at


def test_worker_started_during_the_signal_exits_too(tmp_path, home, fast):
    settings = home(tmp_path / "crossing")
    launched = []

    class SignallingLauncher(Launcher):
        def launch(self, slot, device):
            process = super().launch(slot, device)
            launched.append(process)
            os.kill(os.getpid(), signal.SIGTERM)
            return process

    engine = open_record(settings.database_url)
    Supervisor(engine, settings, SignallingLauncher(settings.logs, fast), slots=1, host_name="here", only="s").run()
    assert len(launched) == 1
    assert fetch_rows(settings, select(lease)) == []


@pytest.mark.slow
def test_second_signal_ends_daemon_with_locked_database(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "stuck")
    other = sqlite3.connect(settings.database_file, isolation_level=None)

    def stop(supervisor):
        if any(progress_of(slot) for slot in supervisor.slots):
            if not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")
            supervisor.stop()

    supervise(settings, on_tick=stop, busy_seconds=0.05, timeouts=QUICK)
    other.execute("ROLLBACK")
    assert supervise(settings) == expected


def test_launch_error_is_reported_with_its_cause(tmp_path, home, fast):
    settings = home(tmp_path / "no-processes")
    seen = set()

    class FailingLauncher(Launcher):
        def launch(self, slot, device):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def observe(supervisor):
        seen.add(supervisor.trouble)
        if supervisor.slots[0].failed_starts >= 3:
            supervisor.stop()

    engine = open_record(settings.database_url)
    broken = FailingLauncher(settings.logs, fast)
    Supervisor(engine, settings, broken, slots=1, host_name="here", only="s", timeouts=QUICK).run(observe)
    (message,) = seen - {None}
    assert "workers cannot be started" in message


@pytest.mark.slow
def test_partial_file_of_a_killed_worker_is_removed(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "half-written")
    torn = []

    def interfere(supervisor):
        for slot in supervisor.slots:
            if not torn and progress_of(slot) and running_pid(slot):
                assignment = slot.training.assignment
                token, folder = assignment.leased.token, Path(assignment.message.checkpoint_folder)
                torn.append(folder / f".c{token.candidate}-a{token.attempt}-e9-b0.ckpt.0123abcd")
                torn[0].write_bytes(b"half")
                psutil.Process(running_pid(slot)).kill()

    assert supervise(settings, program=SLOW, on_tick=interfere, timeouts=QUICK) == expected
    assert not torn[0].exists()


@pytest.mark.slow
def test_suspension_of_supervisor_and_workers_fails_no_training(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "asleep")
    jump = [0.0]

    def sleep(supervisor):
        if jump[0] == 0.0 and any(progress_of(slot) for slot in supervisor.slots):
            jump[0] = 3600.0

    clock = lambda: time.monotonic() + jump[0]  # noqa: E731
    assert supervise(settings, on_tick=sleep, monotonic=clock, timeouts=QUICK) == expected
    assert events(settings, "taken_back") == []


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_clock_change_by_an_hour_changes_nothing(tmp_path, home, supervise, fast, expected, hours):
    settings = home(tmp_path / "clock")
    moved = [0.0]

    def move(supervisor):
        if moved[0] == 0.0 and any(
            slot.training and slot.training.assignment.leased.birth >= 4 for slot in supervisor.slots
        ):
            moved[0] = 3600.0 * hours

    program = (*fast, "--crash-on", "9")
    wall = lambda: time.time() + moved[0]  # noqa: E731
    assert supervise(settings, program=program, on_tick=move, wall=wall, timeouts=QUICK) == expected
    assert outcomes(settings, 9)[-1] == ("scored", None)


def drain_during_training(settings, supervise):
    """Stop the supervisor during the training of candidate 7. Return the rows of this candidate's checkpoints."""

    stopped = []

    def stop(supervisor):
        # Stop only once. A second call kills the workers, and files of other candidates may then also lack a row.
        if not stopped and any(candidate_of(slot) == 7 and progress_of(slot) for slot in supervisor.slots):
            stopped.append(True)
            supervisor.stop()

    supervise(settings, program=(*SIMULATED_WORKER, "--seconds-per-epoch", "0.1"), on_tick=stop)
    assert outcomes(settings, 7) == [("released", None)]
    query = select(checkpoint).where(checkpoint.c.candidate_id == 7).order_by(checkpoint.c.epoch)
    return fetch_rows(settings, query)


@pytest.mark.slow
def test_damaged_checkpoints_are_recorded_and_removed(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "damaged")
    kept = drain_during_training(settings, supervise)
    for row in kept:
        file = settings.artifacts / row.path
        file.write_bytes(file.read_bytes()[:-1])
    supervise(settings)
    assert len(events(settings, "checkpoint_damaged")) == len(kept) > 0
    assert len(events(settings, "started_afresh")) == 1
    assert not [row for row in kept if (settings.artifacts / row.path).exists()]


@pytest.mark.slow
def test_checkpoint_file_without_a_row_is_adopted(tmp_path, home, supervise):
    settings = home(tmp_path / "adopted")
    kept = drain_during_training(settings, supervise)
    with transaction(open_record(settings.database_url)) as connection:
        connection.execute(checkpoint.delete().where(checkpoint.c.candidate_id == 7))
    supervise(settings)
    (adopted,) = events(settings, "checkpoint_adopted")
    assert kept[-1].path in adopted.detail
    assert events(settings, "replay_differs") == []


@pytest.mark.slow
def test_unneeded_checkpoints_are_removed(tmp_path, home, supervise):
    settings = home(tmp_path / "collected")
    supervise(settings, timeouts=QUICK)
    living = {
        row.id
        for row in fetch_rows(
            settings, select(candidate.c.id).where(candidate.c.joined > 0, candidate.c.left.is_(None))
        )
    }
    files = {path.name for path in Path(settings.artifacts).glob("checkpoints/*/*")}
    with read_transaction(open_record(settings.database_url)) as connection:
        best = get_best(connection, get_search(connection, "s").id)
    assert {int(name.split("-")[0][1:]) for name in files} >= living | {best.id}
    # All other candidates may still become parents of later births, so their checkpoints are kept.
    assert len(files) <= 2 * (6 + 5 + 1)
    known = {Path(row.path).name for row in fetch_rows(settings, select(checkpoint.c.path))}
    assert files == known


@pytest.mark.slow
def test_home_is_kept_within_its_size_limit(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "small")
    squeezed = replace(QUICK, disk_check=0.0)
    assert supervise(settings, timeouts=squeezed, max_bytes=1) == expected
    # Candidates that may still become parents have only their newest checkpoints.
    files = list(settings.artifacts.glob("checkpoints/*/*"))
    assert len({path.name.split("-")[0] for path in files}) == len(files)
