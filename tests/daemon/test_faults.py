"""What goes wrong, and what becomes of it: hangs, poison, damage, a record that cannot be reached."""

import errno
import os
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select, update

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db import leases, transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, checkpoint, lease
from support.simulated_worker import SIMULATED_WORKER
from support.slots import candidate_of, is_training, progress_of, running_pid

SLOW = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
"""Still in its first epochs when a supervisor on a busy machine comes to look."""
QUICK = Timeouts(tick=0.02, database=0.1, silence=0.5, stop=0.5, restart=0.05, checkpoint_cleanup=0.0)


def rows(settings, query):
    with read_transaction(open_record(settings.database_url)) as connection:
        return connection.execute(query).all()


def events(settings, kind):
    return rows(settings, select(event).where(event.c.kind == kind).order_by(event.c.id))


def outcomes(settings, candidate_id):
    query = select(attempt.c.outcome, attempt.c.failure).where(attempt.c.candidate_id == candidate_id)
    return [tuple(row) for row in rows(settings, query.order_by(attempt.c.number))]


@pytest.fixture(scope="module")
def calm(tmp_path_factory, home, supervise):
    """The fingerprint of the search when nothing happens to it."""
    return supervise(home(tmp_path_factory.mktemp("calm") / "home"))


def test_a_training_that_hangs_is_killed_with_its_children_and_tried_again(tmp_path, home, supervise, fast, calm):
    settings = home(tmp_path / "hang")
    children = set()

    def look(supervisor):
        for slot in supervisor.slots:
            if running_pid(slot) and psutil.pid_exists(running_pid(slot)):
                children.update(psutil.Process(running_pid(slot)).children())

    assert supervise(settings, program=(*fast, "--hang-on", "9"), on_tick=look, timeouts=QUICK) == calm
    assert outcomes(settings, 9) == [("failed", "hang"), ("scored", None)]
    assert children
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_a_worker_that_does_not_stop_when_told_is_killed(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "deaf")

    def pause(supervisor):
        if any(candidate_of(slot) == 3 and progress_of(slot) for slot in supervisor.slots):
            with transaction(open_record(settings.database_url)) as connection:
                connection.execute(update(search).values(wish="paused"))

    timeouts = Timeouts(tick=0.02, database=0.1, silence=60, stop=0.3)
    supervise(settings, program=(*fast, "--hang-on", "3"), on_tick=pause, timeouts=timeouts)
    assert outcomes(settings, 3) == [("failed", "hang")]
    assert rows(settings, select(lease)) == []


def test_a_poisoned_candidate_fails_with_its_cause_and_the_search_goes_on(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "poison")
    wall = lambda: time.time() * 1000  # back-off passes a thousand times as fast  # noqa: E731
    supervise(settings, program=(*fast, "--fail-on", "9"), timeouts=QUICK, wall=wall)
    tried = outcomes(settings, 9)
    # The first attempt brought it further, and does not count.
    assert tried == [("failed", "exception")] * 4
    (state,) = rows(settings, select(candidate.c.state).where(candidate.c.id == 9))
    assert state.state == "failed"
    (row,) = rows(settings, select(search))
    assert (row.settled, row.scored) == (24, 23)
    assert row.finished_at is not None


def test_a_candidate_over_its_time_limit_fails_and_is_not_tried_again(tmp_path, home, supervise, fast):
    # Far longer than its limit: it has not ended before a supervisor on a busy machine looks.
    settings = home(tmp_path / "slow", budget__candidate_seconds=0.2, budget__candidates=6, training__epochs=400)
    supervise(settings, program=(*SIMULATED_WORKER, "--seconds-per-epoch", "0.05"), timeouts=QUICK)
    failures = rows(settings, select(attempt.c.failure, attempt.c.number))
    assert {tuple(row) for row in failures} == {("time_limit", 1)}


def test_workers_that_cannot_start_are_told_and_not_started_without_end(tmp_path, home, supervise):
    settings = home(tmp_path / "broken")
    seen = set()

    def look(supervisor):
        seen.add(supervisor.trouble)
        if supervisor.trouble is not None and supervisor.slots[0].failed_starts >= 3:
            supervisor.stop()

    supervise(settings, slots=1, program=("-m", "eatnas_training.no_such_module"), on_tick=look, timeouts=QUICK)
    (told,) = seen - {None}
    assert "workers end before they are ready" in told
    assert "worker-0.log" in told


def test_a_candidate_cancelled_by_hand_stops_training_at_once(tmp_path, home, supervise):
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

    slow = (*SIMULATED_WORKER, "--seconds-per-epoch", "60")
    supervise(settings, program=slow, on_tick=cancel, timeouts=Timeouts(tick=0.02, database=0.1))
    assert cancelled[1] - cancelled[0] < 5


def test_a_record_held_by_somebody_else_delays_and_loses_nothing(tmp_path, home, supervise, calm):
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

    assert supervise(settings, on_tick=hold, busy_seconds=0.1, timeouts=QUICK) == calm
    (told,) = seen - {None}
    assert "locked by another program" in told


@pytest.mark.slow
def test_a_frozen_worker_is_replaced_and_may_write_nothing_when_it_wakes(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "frozen")
    frozen = []

    def freeze(supervisor):
        for slot in supervisor.slots:
            if not frozen and is_training(slot) and candidate_of(slot) >= 5 and running_pid(slot):
                frozen.append(psutil.Process(running_pid(slot)))
                frozen[0].send_signal(signal.SIGSTOP)

    assert supervise(settings, program=SLOW, on_tick=freeze, timeouts=QUICK) == calm
    assert [row.kind for row in events(settings, "taken_back")] == ["taken_back"]
    assert not frozen[0].is_running() or frozen[0].status() == psutil.STATUS_ZOMBIE


def test_a_suspended_worker_counts_as_a_kill_and_not_as_its_candidates_fault(tmp_path, home, supervise):
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
    (message,) = rows(settings, select(attempt.c.message).where(attempt.c.candidate_id == 2, attempt.c.number == 1))
    assert "suspended" in message.message


def test_a_worker_that_dies_while_the_record_is_held_is_told_nothing_more(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "held-and-killed")
    other = sqlite3.connect(settings.database_file, isolation_level=None)
    ended_at = []

    def strike(supervisor):
        working = [slot for slot in supervisor.slots if progress_of(slot) and running_pid(slot)]
        if not ended_at and working and not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")
            psutil.Process(running_pid(working[0])).kill()
        if not ended_at and any(slot.worker and slot.worker.ended for slot in supervisor.slots):
            ended_at.append(time.monotonic())
        # Several beats are due before it is written down that the worker is gone.
        if ended_at and other.in_transaction and time.monotonic() - ended_at[0] > 1:
            other.execute("ROLLBACK")

    timeouts = replace(QUICK, lease=0.6, silence=30.0)
    assert supervise(settings, on_tick=strike, busy_seconds=0.05, timeouts=timeouts) == calm
    assert ended_at


def test_a_worker_started_as_the_signal_comes_leaves_too(tmp_path, home, fast):
    settings = home(tmp_path / "crossing")
    launched = []

    class Crossed(Launcher):
        def launch(self, slot, device):
            process = super().launch(slot, device)
            launched.append(process)
            os.kill(os.getpid(), signal.SIGTERM)
            return process

    engine = open_record(settings.database_url)
    Supervisor(engine, settings, Crossed(settings.logs, fast), slots=1, host_name="here", only="s").run()
    assert len(launched) == 1
    assert rows(settings, select(lease)) == []


def test_the_second_signal_ends_a_daemon_whose_record_cannot_be_reached(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "stuck")
    other = sqlite3.connect(settings.database_file, isolation_level=None)

    def stop(supervisor):
        if any(progress_of(slot) for slot in supervisor.slots):
            if not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")
            supervisor.stop()

    supervise(settings, on_tick=stop, busy_seconds=0.05, timeouts=QUICK)
    other.execute("ROLLBACK")
    assert supervise(settings) == calm


def test_workers_that_cannot_be_started_at_all_are_told_with_the_cause(tmp_path, home, fast):
    settings = home(tmp_path / "no-processes")
    seen = set()

    class Broken(Launcher):
        def launch(self, slot, device):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def look(supervisor):
        seen.add(supervisor.trouble)
        if supervisor.slots[0].failed_starts >= 3:
            supervisor.stop()

    engine = open_record(settings.database_url)
    broken = Broken(settings.logs, fast)
    Supervisor(engine, settings, broken, slots=1, host_name="here", only="s", timeouts=QUICK).run(look)
    (told,) = seen - {None}
    assert "workers cannot be started" in told


@pytest.mark.slow
def test_what_a_killed_worker_was_writing_is_removed(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "half-written")
    torn = []

    def strike(supervisor):
        for slot in supervisor.slots:
            if not torn and progress_of(slot) and running_pid(slot):
                assignment = slot.training.assignment
                token, folder = assignment.leased.token, Path(assignment.message.checkpoint_folder)
                torn.append(folder / f".c{token.candidate}-a{token.attempt}-e9-b0.ckpt.torn")
                torn[0].write_bytes(b"half")
                psutil.Process(running_pid(slot)).kill()

    assert supervise(settings, program=SLOW, on_tick=strike, timeouts=QUICK) == calm
    assert not torn[0].exists()


def test_a_supervisor_that_was_frozen_with_its_workers_blames_nobody(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "asleep")
    jump = [0.0]

    def sleep(supervisor):
        if jump[0] == 0.0 and any(progress_of(slot) for slot in supervisor.slots):
            jump[0] = 3600.0

    clock = lambda: time.monotonic() + jump[0]  # noqa: E731
    assert supervise(settings, on_tick=sleep, monotonic=clock, timeouts=QUICK) == calm
    assert events(settings, "taken_back") == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_moved_by_an_hour_changes_nothing(tmp_path, home, supervise, fast, calm, hours):
    settings = home(tmp_path / "clock")
    moved = [0.0]

    def move(supervisor):
        if moved[0] == 0.0 and any(
            slot.training and slot.training.assignment.leased.birth >= 4 for slot in supervisor.slots
        ):
            moved[0] = 3600.0 * hours

    program = (*fast, "--crash-on", "9")
    wall = lambda: time.time() + moved[0]  # noqa: E731
    assert supervise(settings, program=program, on_tick=move, wall=wall, timeouts=QUICK) == calm
    assert outcomes(settings, 9)[-1] == ("scored", None)


def drained_halfway(settings, supervise):
    """Stop while candidate 7 is in training, with checkpoints of its own."""

    def stop(supervisor):
        for slot in supervisor.slots:
            if candidate_of(slot) == 7 and progress_of(slot):
                supervisor.stop()

    supervise(settings, program=(*SIMULATED_WORKER, "--seconds-per-epoch", "0.1"), on_tick=stop)
    query = select(checkpoint).where(checkpoint.c.candidate_id == 7).order_by(checkpoint.c.epoch)
    return rows(settings, query)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_replaced_by_the_one_before_and_told(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "damaged")
    kept = drained_halfway(settings, supervise)
    for row in kept:
        file = settings.artifacts / row.path
        file.write_bytes(file.read_bytes()[:-1])
    supervise(settings)
    assert len(events(settings, "checkpoint_damaged")) == len(kept) > 0
    assert len(events(settings, "started_afresh")) == 1
    assert not [row for row in kept if (settings.artifacts / row.path).exists()]


@pytest.mark.slow
def test_a_whole_file_without_a_row_is_adopted(tmp_path, home, supervise):
    settings = home(tmp_path / "adopted")
    kept = drained_halfway(settings, supervise)
    with transaction(open_record(settings.database_url)) as connection:
        connection.execute(checkpoint.delete().where(checkpoint.c.candidate_id == 7))
    supervise(settings)
    (adopted,) = events(settings, "checkpoint_adopted")
    assert kept[-1].path in adopted.detail
    assert events(settings, "replay_differs") == []


def test_checkpoints_that_nobody_needs_are_collected(tmp_path, home, supervise):
    settings = home(tmp_path / "collected")
    supervise(settings, timeouts=QUICK)
    living = {
        row.id
        for row in rows(settings, select(candidate.c.id).where(candidate.c.joined > 0, candidate.c.left.is_(None)))
    }
    files = {path.name for path in Path(settings.artifacts).glob("checkpoints/*/*")}
    assert {int(name.split("-")[0][1:]) for name in files} >= living
    # Besides the living there may be those that a further birth could still have for a parent.
    assert len(files) <= 2 * (6 + 5)
    known = {Path(row.path).name for row in rows(settings, select(checkpoint.c.path))}
    assert files == known


def test_a_home_is_kept_within_its_bound_while_it_is_worked_on(tmp_path, home, supervise, calm):
    settings = home(tmp_path / "small")
    squeezed = replace(QUICK, disk_check=0.0)
    assert supervise(settings, timeouts=squeezed, max_bytes=1) == calm
    # Only the newest of those who live, and may still be parents, are left.
    files = list(settings.artifacts.glob("checkpoints/*/*"))
    assert len({path.name.split("-")[0] for path in files}) == len(files)
