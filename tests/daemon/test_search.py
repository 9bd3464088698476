"""Whole searches over the real protocol, with the worker that does arithmetic instead of torch."""

import os
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import select, update

from eatnas_daemon import lock
from eatnas_daemon.launchers import Launcher
from eatnas_daemon.supervisor import Supervisor
from eatnas_db import steps
from eatnas_db.database import create_engine_for, open_record, reading, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import Wish
from eatnas_db.errors import ConflictError
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.schema import attempt, candidate, lease, search
from eatnas_db.settings import load_settings
from eatnas_migrations import commands

FAST = ("eatnas_training.arithmetic", "--seconds-per-epoch", "0.005", "--scramble")
TREE = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 3},
    "evolution": {"population": 6, "tournament": 3, "lag": 5},
    "budget": {"candidates": 24},
}


def home(folder, seed=1):
    settings = load_settings({}, str(folder))
    folder.mkdir()
    engine = create_engine_for(settings.database_url)
    commands.upgrade(engine)
    with transaction(engine) as connection:
        spec = parse_spec(TREE, {"seed": seed})
        steps.create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
    return settings


def supervise(settings, slots, program=FAST, on_tick=lambda _: None):
    engine = open_record(settings.database_url)
    supervisor = Supervisor(engine, settings, Launcher(settings.logs, program), slots=slots, host_name="here", only="s")
    supervisor.run(on_tick)
    return fingerprint(engine)


def fingerprint(engine):
    with reading(engine) as connection:
        return get_fingerprint(connection, get_search(connection, "s").id).sha256


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_two_and_four_slots_give_one_history(tmp_path, seed):
    prints = {supervise(home(tmp_path / str(slots), seed), slots) for slots in (1, 2, 4)}
    assert len(prints) == 1


def test_other_seeds_give_other_histories(tmp_path):
    assert supervise(home(tmp_path / "1", 1), 2) != supervise(home(tmp_path / "2", 2), 2)


def test_a_worker_killed_in_between_changes_nothing(tmp_path):
    undisturbed = supervise(home(tmp_path / "calm"), 2)
    settings = home(tmp_path / "storm")
    assert supervise(settings, 2, (*FAST, "--crash-on", "9")) == undisturbed
    with reading(open_record(settings.database_url)) as connection:
        of_nine = select(attempt.c.outcome).where(attempt.c.candidate_id == 9).order_by(attempt.c.number)
        assert connection.execute(of_nine).scalars().all() == ["lost", "scored"]


def test_a_supervisor_killed_with_its_work_in_hand_changes_nothing(tmp_path):
    undisturbed = supervise(home(tmp_path / "calm"), 2)
    settings = home(tmp_path / "storm")
    script = """
import sys
from eatnas_daemon.launchers import Launcher
from eatnas_daemon.supervisor import Supervisor
from eatnas_db.database import open_record
from eatnas_db.settings import load_settings
settings = load_settings({}, sys.argv[1])
Supervisor(open_record(settings.database_url), settings, Launcher(settings.logs, sys.argv[2:]), slots=2,
           host_name="here", only="s").run()
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(settings.home), *FAST])
    engine = open_record(settings.database_url)
    while True:
        with reading(engine) as connection:
            scored = connection.execute(select(search.c.scored)).scalar_one()
            held = connection.execute(select(lease.c.candidate_id)).first()
        if scored >= 4 and held:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert supervise(settings, 2) == undisturbed
    with reading(engine) as connection:
        assert connection.execute(select(attempt.c.number).where(attempt.c.ended_at.is_(None))).all() == []


def test_pause_releases_what_is_in_training_and_resume_ends_the_same(tmp_path):
    undisturbed = supervise(home(tmp_path / "calm"), 2)
    settings = home(tmp_path / "paused")
    engine = open_record(settings.database_url)

    def pause(supervisor):
        with transaction(engine) as connection:
            if get_search(connection, "s").scored >= 3 and any(slot.work for slot in supervisor.slots):
                connection.execute(update(search).values(wish=Wish.PAUSED))

    supervise(settings, 2, on_tick=pause)
    with reading(engine) as connection:
        assert connection.execute(select(search.c.finished_at)).scalar_one() is None
        states = set(connection.execute(select(candidate.c.state)).scalars())
    assert states == {"pending", "scored"}
    with transaction(engine) as connection:
        steps.set_wish(connection, "s", Wish.RUN, time.time())
    assert supervise(settings, 2) == undisturbed


def test_the_first_stop_drains_and_keeps_what_was_done(tmp_path):
    settings = home(tmp_path / "drained")

    def stop(supervisor):
        if any(slot.work for slot in supervisor.slots):
            supervisor.stop()

    supervise(settings, 2, on_tick=stop)
    with reading(open_record(settings.database_url)) as connection:
        assert connection.execute(select(lease.c.candidate_id)).all() == []
        outcomes = set(connection.execute(select(attempt.c.outcome)).scalars())
    assert outcomes <= {"released", "scored", "lost"}


def test_extend_reopens_a_finished_search(tmp_path):
    settings = home(tmp_path / "more")
    supervise(settings, 2)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        assert steps.extend(connection, "s", candidates=4, now=time.time()) == (28, None)
    supervise(settings, 2)
    with reading(engine) as connection:
        assert connection.execute(select(search.c.scored)).scalar_one() == 28


def test_a_second_supervisor_is_refused_with_the_first_ones_pid(tmp_path):
    file = tmp_path / "record.lock"
    assert lock.holder_of(file) is None
    with lock.hold(file):
        assert lock.holder_of(file) == os.getpid()
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"), lock.hold(file):
            pass
    assert lock.holder_of(file) is None
