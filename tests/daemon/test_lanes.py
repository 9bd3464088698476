"""Lanes: several trainings share a process, and each of them looks like a worker to the supervisor."""

import os
import signal
import time
from pathlib import Path
from selectors import DefaultSelector

import pytest
from sqlalchemy import select, update

from eatnas_daemon.daemon_options import DaemonOptions
from eatnas_daemon.gpus.worker_scheduler import NO_GPUS
from eatnas_daemon.main import supervise
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.supervision.worker_pool import WorkerPool
from eatnas_daemon.workers.lanes import LaneLauncher, create_turn_file
from eatnas_daemon.workers.launcher import TRAINING_PROGRAM, Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError
from eatnas_db.queries.holds import list_holds
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from eatnas_protocol.messages import Ready
from support.searches import FAST_WORKER, create_home, fetch_rows, fingerprint_of, supervise_search
from support.simulated_worker import SIMULATED_WORKER
from support.slots import is_training, running_pid

LANES = 4
QUICK = Timeouts(tick=0.02, database=0.1, silence=2.0, stop=3.0, restart=0.05)


def supervise_lanes(settings, program=FAST_WORKER, *, slots=LANES, on_tick=lambda _: None, **options):
    """Supervise the search with one process for all slots, and return the search's fingerprint."""
    engine = open_record(settings.database_url)
    launcher = LaneLauncher(Launcher(settings.logs, program), LANES, on_processor=True)
    Supervisor(engine, settings, launcher, slots=slots, host_name="here", only="s", **options).run(on_tick)
    return fingerprint_of(engine)


def attempts_of(settings):
    return fetch_rows(settings, select(attempt.c.candidate_id, attempt.c.outcome, attempt.c.failure))


def blamed_candidates(settings):
    """Return the failure of each candidate with a failed attempt. A lost attempt does not count as failed."""
    return {row.candidate_id: row.failure for row in attempts_of(settings) if row.failure not in (None, "lost")}


def test_lanes_share_a_process_and_give_the_same_history(tmp_path):
    settings = create_home(tmp_path / "lanes")
    pids = set()
    fingerprint = supervise_lanes(
        settings, on_tick=lambda supervisor: pids.update(map(running_pid, supervisor.slots)), slots=LANES
    )
    assert len(pids - {None}) == 1
    assert fingerprint == supervise_search(create_home(tmp_path / "alone"), slots=1)


def test_crash_counts_only_against_the_candidate_whose_turn_it_is(tmp_path):
    """A crash counts against the candidate whose turn it was. The other candidates start again, as after the loss of a
    worker.
    """
    settings = create_home(tmp_path / "crash")
    fingerprint = supervise_lanes(settings, (*FAST_WORKER, "--segfault-on", "3"), timeouts=QUICK)
    assert blamed_candidates(settings) == {3: "signal"}
    assert fingerprint == supervise_search(create_home(tmp_path / "calm"), slots=1)


def test_lanes_without_a_gpu_are_refused(tmp_path):
    settings = create_home(tmp_path / "home")
    with pytest.raises(ConflictError, match="--lanes 2 needs a GPU, but this daemon may use the CPU only"):
        supervise(settings, DaemonOptions(lanes=2, devices=("cpu",)), only="s")


def test_search_by_a_program_is_set_aside(tmp_path):
    """A program occupies its process until it ends, so the other lanes could not stop earlier."""
    settings = create_home(tmp_path / "home")
    engine, holds = open_record(settings.database_url), []
    with transaction(engine) as connection:
        spec = connection.execute(select(search.c.spec)).scalar_one()
        training = {**spec["training"], "program": "package:train"}
        connection.execute(update(search).values(spec={**spec, "training": training}))

    def stop_with_a_hold(supervisor):
        with read_transaction(engine) as connection:
            holds[:] = list_holds(connection, 1)
        if holds or attempts_of(settings):
            supervisor.stop()

    supervise_lanes(settings, on_tick=stop_with_a_hold, timeouts=QUICK)
    assert holds[0].reason.startswith("training.program: a program needs a process of its own")
    assert attempts_of(settings) == []


BLOCKED = """
import os, sys, time
from eatnas_protocol.lane_turns import encode_turn
os.pwrite(int(sys.argv[sys.argv.index("--turn-fd") + 1]), encode_turn(0), 0)
time.sleep(600)
"""
"""A worker that never ends the turn of its first lane."""


def test_lane_without_a_training_cannot_block_the_others_for_ever(tmp_path):
    """A lane may hang after its last training, when the supervisor is no longer waiting for its reports."""
    launcher, timeouts = LaneLauncher(Launcher(tmp_path, ("-c", BLOCKED)), 2, on_processor=True), Timeouts()
    with DefaultSelector() as selector:
        pool = WorkerPool(launcher, NO_GPUS, selector, timeouts, cpu_slots=2, now=0.0, cores=1)
        pool.launch(0.0)
        try:
            idle, waiting = pool.workers
            for worker in pool.workers:
                worker.receive(Ready(1, {}, "cpu", "AVX2"), 0.0)
            while not waiting.process.waits_for_turn:
                time.sleep(0.01)
            pool.kill_overdue(timeouts.loading)
            assert idle.kill_reason is None
            pool.kill_overdue(timeouts.loading + 1.0)
            assert idle.kill_reason.kind == "lost"
            for worker in (idle, waiting):
                worker.exit_status = worker.process.close()
                worker.note_loss()
                assert worker.exit_status == -signal.SIGKILL
            assert waiting.kill_reason.message == "the process was lost while it trained another candidate"
            assert [worker.killed_by_another_lane for worker in (idle, waiting)] == [False, True]
        finally:
            for worker in pool.workers:
                worker.process.kill()


def test_turns_need_no_disk():
    """The turn must not be stored on a disk, because trainings continue while the disk is full."""
    turn_fd = create_turn_file()
    try:
        assert Path(f"/proc/self/fd/{turn_fd}").readlink().name.startswith("memfd:turn")
    finally:
        os.close(turn_fd)


@pytest.mark.slow
@pytest.mark.parametrize(("option", "failure"), [("--hang-on", "hang"), ("--fatal-on", "exception")])
def test_lane_that_ends_the_process_is_blamed_alone(tmp_path, option, failure):
    settings = create_home(tmp_path / "home")
    supervise_lanes(settings, (*FAST_WORKER, option, "3"), timeouts=QUICK)
    assert blamed_candidates(settings) == {3: failure}


@pytest.mark.slow
def test_one_lane_stops_without_the_others(tmp_path):
    """Replacing a lane leaves the process to the other lanes, and does not fail the attempt of the lane's candidate."""
    settings = create_home(tmp_path / "stop")
    process = []

    def stop_one(supervisor):
        training = [slot for slot in supervisor.slots if is_training(slot)]
        if not process and len(training) > 1:
            process.extend(running_pid(slot) for slot in training)
            training[1].replace_worker("a test", time.monotonic(), QUICK)

    program = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
    fingerprint = supervise_lanes(settings, program, on_tick=stop_one, timeouts=QUICK)
    assert len(set(process)) == 1
    assert [row for row in attempts_of(settings) if row.failure is not None] == []
    assert fingerprint == supervise_search(create_home(tmp_path / "calm"), slots=1)


@pytest.mark.slow
def test_lanes_give_the_same_bits_as_separate_trainings(tmp_path):
    """Train real candidates in turn. Their scores must have the same bits as after separate trainings."""
    changes = {"training__batch_size": 32, "budget__candidates": 6, "evolution__population": 4}
    changes |= {"data__train_images": 96, "data__validation_images": 64, "training__epochs": 2}
    changes |= {"evolution__tournament": 2, "evolution__lag": 3}
    settings = create_home(tmp_path / "lanes", **changes)
    assert supervise_lanes(settings, TRAINING_PROGRAM) == supervise_search(
        create_home(tmp_path / "alone", **changes), slots=1, program=TRAINING_PROGRAM
    )
