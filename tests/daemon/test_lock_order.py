"""Commands and two hosts change the same searches on a server without a deadlock."""

import re
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, text

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS
from eatnas_db import transitions
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.locks import task_lock
from eatnas_db.database.transactions import run_transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import ConflictError, TransactionRollbackError
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.control import extend_search, set_desired_state
from eatnas_db.searches.create import create_search
from eatnas_db.settings import load_settings
from support.searches import FAST_WORKER, SPEC, create_record

FAST = replace(DEFAULT_TIMEOUTS, tick=0.01, database=0.02, lease=0.3, checkpoint_cleanup=0.0)


def create(connection, name, seed):
    spec = parse_spec({**SPEC, "name": name}, {"seed": seed})
    create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)


def cancel_newest(connection):
    unsettled = select(candidate.c.id).where(candidate.c.state.in_(("pending", "leased")))
    transitions.cancel(connection, connection.execute(unsettled.order_by(candidate.c.id.desc())).scalars().first(), 2.0)


def supervise(url, folder, name, over, conflicts):
    """Call `tick` until the test is over. Append the conflicts that remain after all repetitions to `conflicts`."""
    settings = replace(load_settings({}, str(folder)), database_url=url)
    engine = open_record(url)
    launcher = Launcher(settings.logs, FAST_WORKER)
    supervisor = Supervisor(engine, settings, launcher, slots=2, host_name=name, timeouts=FAST)
    try:
        while not over.is_set():
            supervisor.tick()
            if supervisor.trouble:
                conflicts.append(supervisor.trouble)
            time.sleep(0.005)
    finally:
        supervisor._close()
        engine.dispose()


def statements_in_deadlocks(log):
    """Return, from the log of a server, the statements that waited for each other."""
    return re.findall(r"^\tProcess \d+: (.*)", log, re.MULTILINE)


@pytest.mark.slow
def test_commands_next_to_two_hosts_meet_no_deadlock(postgres, tmp_path):
    url = postgres.new_database()
    engine = create_record(url)
    log = Path(postgres.execute("SHOW data_directory")[0][0]) / "log"
    logged = len(log.read_text())
    over, conflicts = threading.Event(), []
    hosts = [
        threading.Thread(target=supervise, args=(url, tmp_path / name, name, over, conflicts)) for name in ("a", "b")
    ]
    for host in hosts:
        host.start()
    try:
        for number in range(30):
            name = f"s{number}"
            run_transaction(engine, partial(create, name=name, seed=number))
            time.sleep(0.05)
            run_transaction(engine, partial(extend_search, name=name, candidates=2, now=1.0))
            with suppress(ConflictError):  # The candidate may have ended in the meantime.
                run_transaction(engine, cancel_newest)
            run_transaction(engine, partial(set_desired_state, name=name, desired=DesiredState.CANCELLED, now=3.0))
    finally:
        over.set()
        for host in hosts:
            host.join()
        engine.dispose()
    assert conflicts == []
    # Two searches that insert the same architectures may still wait for each other.
    waiting = statements_in_deadlocks(log.read_text()[logged:])
    assert [statement for statement in waiting if not statement.startswith("INSERT INTO architecture ")] == []


@pytest.mark.slow
def test_a_transaction_is_repeated_once_after_a_deadlock(postgres):
    engine = create_record(postgres.new_database())
    calls = []

    def fail(connection, state):
        calls.append(state)
        connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{state}'; END $$"))

    def write(connection):
        if not calls:
            fail(connection, "40P01")
        return "done"

    assert run_transaction(engine, write) == "done"
    with pytest.raises(TransactionRollbackError):
        run_transaction(engine, lambda connection: fail(connection, "40001"))
    assert calls == ["40P01", "40001", "40001"]
    engine.dispose()


@pytest.mark.parametrize("on_server", [False, True])
def test_task_that_waits_for_another_program_prints_a_note(tmp_path, postgres, on_server):
    url = postgres.new_database() if on_server else f"sqlite:///{tmp_path / 'a.db'}"
    engine, other = create_engine_for(url), create_engine_for(url)
    lines, entered, released = [], [], []

    def wait() -> None:
        with task_lock(other, "mlflow", lines.append, notice_seconds=0.0):
            entered.extend(released)

    with task_lock(engine, "mlflow"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not lines:
            time.sleep(0.01)
        released.append(True)
    waiting.join()
    assert entered == [True]
    (line,) = lines
    assert "waiting for another program" in line
    engine.dispose()
    other.dispose()
