"""Whole searches with simulated workers. Their history depends only on the seed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import select, update

from eatnas_daemon.daemon_lock import find_record_user, hold_daemon_lock
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import ConflictError
from eatnas_db.queries.events import list_events
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, lease
from eatnas_db.searches.control import extend_search, set_desired_state
from eatnas_db.searches.retry import retry_candidates
from support.simulated_worker import SIMULATED_WORKER
from support.waiting import eventually

# A change to these values means that stored histories can no longer be reproduced.
RECORDED_FINGERPRINTS = {
    1: "98abc91e9ccda92386c724caba5a17be0a49cf398e4bd3e4821db6ecfe3d34e4",
    2: "3a3b278f7fead53ad866c08d01952e04b8a5bfa221332043fbca80a8ab803066",
    3: "020b11a2bd0a53dd36eca8491d7f44bd8fe218b718fb478e45db22e2a00659d9",
}


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_one_two_and_four_slots_give_the_recorded_history(tmp_path, home, supervise, seed):
    prints = {supervise(home(tmp_path / str(slots), seed), slots) for slots in (1, 2, 4)}
    assert prints == {RECORDED_FINGERPRINTS[seed]}


@pytest.mark.slow
def test_converged_search_ends_at_the_same_birth(tmp_path, home, supervise, fast):
    flat = {
        "evolution__stop_when": "quality_flat",
        "evolution__flat_steps": 8,
        "evolution__flat_by": 0.02,
        "budget__candidates": 200,
    }
    prints = set()
    for slots, program in ((1, fast), (4, fast), (2, (*fast, "--crash-on", "15"))):
        settings = home(tmp_path / str(slots), **flat)
        prints.add(supervise(settings, slots, program))
        with read_transaction(open_record(settings.database_url)) as connection:
            row = get_search(connection, "s")
        assert row.born == row.settled == row.ends_at < 200
        assert row.ended.startswith("the quality has not improved")
    assert len(prints) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("population", "acquisition"), [(6, "improvement_per_second"), (12, "improvement")])
def test_guided_births_do_not_depend_on_slots_or_crashes(tmp_path, home, supervise, fast, population, acquisition):
    guided = {"evolution__births": "guided", "evolution__population": population, "budget__candidates": 24}
    guided["evolution__acquisition"] = acquisition
    prints = set()
    for slots, program in ((1, fast), (4, (*fast, "--crash-on", "11"))):
        settings = home(tmp_path / str(slots), **guided)
        prints.add(supervise(settings, slots, program))
        with read_transaction(open_record(settings.database_url)) as connection:
            births = select(candidate.c.birth).join(prediction, prediction.c.candidate_id == candidate.c.id)
            predicted = connection.execute(births.order_by(candidate.c.birth)).scalars().all()
        assert min(predicted) >= min(population, 8)
        assert len(predicted) > 8
    assert len(prints) == 1


@pytest.mark.slow
def test_epochs_record_memory_and_cpu_load(tmp_path, home, supervise):
    settings = home(tmp_path / "home")
    supervise(settings, 2, (*SIMULATED_WORKER, "--seconds-per-epoch", "0.02"))
    with read_transaction(open_record(settings.database_url)) as connection:
        output = connection.execute(select(epoch.c.memory_bytes, epoch.c.load)).all()
    assert output
    assert all(row.memory_bytes > 2**20 and row.load >= 0 for row in output)


@pytest.mark.slow
def test_other_seeds_give_other_histories(tmp_path, home, supervise):
    assert supervise(home(tmp_path / "1", 1), 2) != supervise(home(tmp_path / "2", 2), 2)


@pytest.mark.slow
def test_killed_worker_changes_nothing(tmp_path, home, supervise, fast):
    expected = supervise(home(tmp_path / "calm"), 2)
    settings = home(tmp_path / "storm")
    assert supervise(settings, 2, (*fast, "--crash-on", "9")) == expected
    with read_transaction(open_record(settings.database_url)) as connection:
        of_nine = select(attempt.c.outcome).where(attempt.c.candidate_id == 9).order_by(attempt.c.number)
        assert connection.execute(of_nine).scalars().all() == ["lost", "scored"]


def test_killed_supervisor_changes_nothing(tmp_path, home, supervise, fast):
    expected = supervise(home(tmp_path / "calm"), 2)
    settings = home(tmp_path / "storm")
    script = """
import sys
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import load_settings
settings = load_settings({}, sys.argv[1])
Supervisor(open_record(settings.database_url), settings, Launcher(settings.logs, sys.argv[2:]), slots=2,
           host_name="here", only="s").run()
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(settings.home), *fast])
    engine = open_record(settings.database_url)

    def trains_after_four_scores():
        with read_transaction(engine) as connection:
            scored = connection.execute(select(search.c.scored)).scalar_one()
            return scored >= 4 and connection.execute(select(lease.c.candidate_id)).first()

    eventually(trains_after_four_scores)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert supervise(settings, 2) == expected
    with read_transaction(engine) as connection:
        assert connection.execute(select(attempt.c.number).where(attempt.c.ended_at.is_(None))).all() == []


@pytest.mark.slow
def test_pause_and_resume_change_nothing(tmp_path, home, supervise):
    expected = supervise(home(tmp_path / "calm"), 2)
    settings = home(tmp_path / "paused")
    engine = open_record(settings.database_url)

    def pause(supervisor):
        with transaction(engine) as connection:
            if get_search(connection, "s").scored >= 3 and any(slot.training for slot in supervisor.slots):
                connection.execute(update(search).values(wish=DesiredState.PAUSED))

    supervise(settings, 2, on_tick=pause)
    with read_transaction(engine) as connection:
        assert connection.execute(select(search.c.finished_at)).scalar_one() is None
        states = set(connection.execute(select(candidate.c.state)).scalars())
    assert states == {"pending", "scored"}
    with transaction(engine) as connection:
        set_desired_state(connection, "s", DesiredState.RUN, time.time())
    assert supervise(settings, 2) == expected


def test_first_stop_drains_and_releases_all_leases(tmp_path, home, supervise):
    settings = home(tmp_path / "drained")
    stopped = []

    def stop(supervisor):
        # Call `stop` only once, because a second call kills the workers.
        if not stopped and any(slot.training for slot in supervisor.slots):
            stopped.append(True)
            supervisor.stop()

    supervise(settings, 2, on_tick=stop)
    with read_transaction(open_record(settings.database_url)) as connection:
        assert connection.execute(select(lease.c.candidate_id)).all() == []
        outcomes = set(connection.execute(select(attempt.c.outcome)).scalars())
        endings = set(connection.execute(select(worker.c.ending)).scalars())
    assert outcomes <= {"released", "scored"}
    assert endings == {"the daemon was stopped"}


@pytest.mark.slow
@pytest.mark.parametrize("removal", ["worst", "mixed"])
def test_other_removal_rules_do_not_depend_on_slots(tmp_path, home, supervise, removal):
    prints = {supervise(home(tmp_path / str(slots), evolution__removal=removal), slots) for slots in (1, 3)}
    assert len(prints) == 1
    with read_transaction(open_record(f"sqlite:///{tmp_path / '1' / 'eatnas.db'}")) as connection:
        removed_at_once = select(candidate.c.id).where(candidate.c.joined == candidate.c.left)
        assert connection.execute(removed_at_once).first()  # a new candidate with the lowest fitness leaves immediately
        living = select(candidate.c.id).where(candidate.c.joined > 0, candidate.c.left.is_(None))
        assert len(connection.execute(living).all()) == 6


@pytest.mark.slow
def test_extend_reopens_a_finished_search(tmp_path, home, supervise):
    settings = home(tmp_path / "more")
    supervise(settings, 2)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        assert extend_search(connection, "s", candidates=4, now=time.time()) == (28, None)
    supervise(settings, 2)
    with read_transaction(engine) as connection:
        assert connection.execute(select(search.c.scored)).scalar_one() == 28


def test_second_daemon_is_refused_with_the_first_pid(tmp_path):
    file = tmp_path / "record.lock"
    assert find_record_user(file) is None
    with hold_daemon_lock(file):
        assert find_record_user(file).process.pid == os.getpid()
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"), hold_daemon_lock(file):
            pass
    assert find_record_user(file) is None


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_retries_at_any_time_change_nothing(tmp_path, home, supervise, fast, slots):
    failing = (*fast, "--out-of-memory-on", "9", "--out-of-memory-attempts", "3")
    settings = home(tmp_path / "retried")
    engine = open_record(settings.database_url)

    def retry_at_once(_supervisor):
        with transaction(engine) as connection:
            query = select(candidate.c.id).where(candidate.c.state == "failed", candidate.c.id == 9)
            if connection.execute(query).first() and not list_events(connection, kind="retried"):
                retry_candidates(connection, [9], time.time())

    expected = supervise(home(tmp_path / "calm"), 2, failing)
    assert supervise(settings, slots, failing, on_tick=retry_at_once) == expected
    with read_transaction(engine) as connection:
        assert get_search(connection, "s.retry").status == "finished"
        assert get_search(connection, "s.retry").scored == 1
