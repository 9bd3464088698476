"""Several hosts share one PostgreSQL server. Hosts and connections fail, and the search's history stays the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from sqlalchemy import event, func, select, text

from eatnas_cli.host_sentences import describe_lost_hosts
from eatnas_daemon.supervision.host_session import start_host_session
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.changes import watch_changes
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.locks import HOST_LOCK, list_connected_hosts
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import ConflictError, OwnershipError, RecordError
from eatnas_db.hosts import record_worker_start
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.hosts import HOST_LOST, list_hosts
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, lease
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings
from eatnas_db.transitions import lease_next
from eatnas_migrations import commands
from support.simulated_worker import SIMULATED_WORKER
from support.waiting import eventually

pytestmark = pytest.mark.slow

TREE = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 3},
    "evolution": {"population": 6, "tournament": 3, "lag": 5},
    "budget": {"candidates": 40},
    "reevaluation": {"top": 0},
}
TIMEOUTS = "Timeouts(tick=0.05, database=0.2, lease=2.0, checkpoint_cleanup=0.5)"
HOST = f"""
import sys
from pathlib import Path
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import Settings
url, home, name, seconds = sys.argv[1:]
settings = Settings(Path(home), url, name)
program = (*{SIMULATED_WORKER!r}, "--seconds-per-epoch", seconds, "--scramble")
Supervisor(open_record(url, busy_seconds=5), settings, Launcher(settings.logs / name, program), slots=2,
           host_name=name, only="s", timeouts={TIMEOUTS}).run()
"""
WAIT_SECONDS = 300


def make_search(url, seed=1):
    engine = create_engine_for(url)
    commands.upgrade(engine)
    with transaction(engine) as connection:
        spec = parse_spec(TREE, {"seed": seed})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
    return engine


def fingerprint(engine):
    with read_transaction(engine) as connection:
        return get_fingerprint(connection, get_search(connection, "s").id).sha256


def fetch_scalar(engine, query):
    with read_transaction(engine) as connection:
        return connection.execute(query).scalar()


def finished(engine):
    return fetch_scalar(engine, select(search.c.finished_at)) is not None


def count_leases(engine, name):
    """Return the number of leases of a host."""
    return fetch_scalar(engine, select(func.count()).select_from(lease).join(host).where(host.c.name == name))


@pytest.fixture
def url(postgres_url):
    return postgres_url


@pytest.fixture
def hosts(tmp_path):
    """Return a function that starts supervisors in new processes, which are killed at the end."""
    running = []

    def start(url, name, seconds=0.02):
        arguments = [url, str(tmp_path / "shared"), name, str(seconds)]
        process = subprocess.Popen([sys.executable, "-c", HOST, *arguments])
        running.append(process)
        return process

    yield start
    for process in running:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the fingerprint of the search when it runs on SQLite with one slot and without faults."""
    folder = tmp_path_factory.mktemp("calm")
    settings = Settings(folder, f"sqlite:///{folder / 'eatnas.db'}")
    engine = make_search(settings.database_url)
    program = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.001")
    Supervisor(engine, settings, Launcher(settings.logs, program), slots=1, host_name="here", only="s").run()
    return fingerprint(engine)


def assert_nothing_lost_or_doubled(engine):
    with read_transaction(engine) as connection:
        assert connection.execute(select(lease.c.candidate_id)).all() == []
        assert connection.execute(select(attempt.c.number).where(attempt.c.ended_at.is_(None))).all() == []
        scored = select(attempt.c.candidate_id).where(attempt.c.outcome == "scored")
        ids = connection.execute(scored).scalars().all()
        assert len(ids) == len(set(ids)) == 40
        assert set(connection.execute(select(candidate.c.state)).scalars()) == {"scored"}


def test_two_hosts_reproduce_the_history_of_one_slot(url, hosts, expected):
    engine = make_search(url)
    # The first host trains so slowly that the second host gets candidates, however late it starts.
    both = [hosts(url, "a", 1.0), hosts(url, "b")]
    for process in both:
        assert process.wait(WAIT_SECONDS) == 0
    assert fingerprint(engine) == expected
    assert_nothing_lost_or_doubled(engine)
    who = select(host.c.name).select_from(attempt).join(worker).join(device).join(host).distinct()
    with read_transaction(engine) as connection:
        assert set(connection.execute(who).scalars()) == {"a", "b"}


def test_candidates_of_a_dead_host_continue_elsewhere(url, hosts, expected):
    engine = make_search(url)
    dead, alive = hosts(url, "dead", 0.1), hosts(url, "alive", 0.05)
    eventually(lambda: fetch_scalar(engine, select(search.c.scored)) >= 5 and count_leases(engine, "dead"))
    dead.kill()
    dead.wait()
    assert alive.wait(WAIT_SECONDS) == 0
    assert fingerprint(engine) == expected
    assert_nothing_lost_or_doubled(engine)
    silent = select(func.count()).select_from(attempt).where(attempt.c.message == "host dead sends no heartbeats")
    assert fetch_scalar(engine, silent)
    of_dead = select(worker.c.ending).select_from(worker).join(device).join(host).where(host.c.name == "dead")
    with read_transaction(engine) as connection:
        assert set(connection.execute(of_dead).scalars()) == {HOST_LOST}
        gone = {row.name: row for row in list_hosts(connection)}
    assert (gone["dead"].lost, gone["alive"].lost, gone["alive"].alive) == (True, False, False)
    (output,) = describe_lost_hosts(list(gone.values()), gone["dead"].seen_at + 180)
    assert output == "host dead has sent no heartbeat for 3 min; its candidates continued on other hosts"


def test_frozen_host_loses_its_leases_and_continues(url, hosts, expected):
    engine = make_search(url)
    frozen, alive = hosts(url, "frozen", 0.3), hosts(url, "alive", 0.3)
    eventually(lambda: count_leases(engine, "frozen"))
    frozen.send_signal(signal.SIGSTOP)
    silent = select(func.count()).select_from(attempt).where(attempt.c.message == "host frozen sends no heartbeats")
    eventually(lambda: fetch_scalar(engine, silent) and not count_leases(engine, "frozen"))
    frozen.send_signal(signal.SIGCONT)
    for process in (frozen, alive):
        assert process.wait(WAIT_SECONDS) == 0
    assert fingerprint(engine) == expected
    assert_nothing_lost_or_doubled(engine)


def test_starting_host_outwaits_the_transaction_of_a_frozen_one(url):
    engine = make_search(url)
    with engine.connect() as frozen:
        frozen.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1s'"))
        frozen.execute(select(search.c.id).with_for_update())
        impatient = open_record(url, busy_seconds=0.1)
        session = start_host_session(impatient, watch_changes(impatient), "here", 1.0, with_processor=True)
        frozen.invalidate()
    assert session.id == fetch_scalar(engine, select(host.c.id).where(host.c.name == "here"))


def test_server_restart_changes_nothing(new_server, hosts, expected):
    server = new_server()
    engine = make_search(url := server.new_database())
    both = [hosts(url, name, 0.1) for name in ("a", "b")]
    for number in (4, 12):
        eventually(lambda count=number: fetch_scalar(engine, select(search.c.scored)) >= count)
        server.stop()
        with pytest.raises(RecordError, match="the connection to "):
            finished(engine)
        server.start()
    for process in both:
        assert process.wait(WAIT_SECONDS) == 0
    assert fingerprint(engine) == expected
    assert_nothing_lost_or_doubled(engine)


def test_lost_connections_change_nothing(url, tmp_path, expected):
    make_search(url)
    engine = open_record(url)
    count = {"statements": 0, "commits": 0, "lost": 0, "next": 20}

    def cut(connection):
        count["lost"] += 1
        with socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def execute(connection, *_):
        count["statements"] += 1
        if count["statements"] == count["next"]:
            cut(connection)
            # Fail less and less often. Otherwise, no transaction with many statements could succeed.
            count["next"] += 23 + 7 * count["lost"]

    def commit(connection):
        count["commits"] += 1
        if count["commits"] % 4 == 0:
            connection.connection.driver_connection.commit()
            cut(connection)

    settings = Settings(tmp_path, url, "here")
    timeouts = Timeouts(tick=0.02, database=0.05)
    program = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.02", "--scramble")
    launcher = Launcher(settings.logs, program)
    supervisor = Supervisor(engine, settings, launcher, slots=2, host_name="here", only="s", timeouts=timeouts)
    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "commit", commit)
    supervisor.run()
    event.remove(engine, "before_cursor_execute", execute)
    event.remove(engine, "commit", commit)
    assert count["lost"] > 20
    engine = open_record(url)  # open it again, because the last connection may be lost too
    assert fingerprint(engine) == expected
    assert_nothing_lost_or_doubled(engine)


def test_supervisor_whose_host_is_taken_over_ends(url, tmp_path):
    engine = make_search(url)
    settings = Settings(tmp_path, url, "here")
    launcher = Launcher(settings.logs, (*SIMULATED_WORKER, "--seconds-per-epoch", "600"))
    timeouts = Timeouts(tick=0.02, database=0.05)
    supervisor = Supervisor(engine, settings, launcher, slots=1, host_name="here", timeouts=timeouts)
    other = watch_changes(open_record(url))
    taken = []

    def take_over(_):
        if not taken and count_leases(engine, "here"):
            held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = :lock"
            with transaction(engine) as connection:
                connection.execute(text(held), {"lock": HOST_LOCK})
            eventually(lambda: not _living(engine))
            taken.append(start_host_session(engine, other, "here", 2.0, with_processor=True))
            with transaction(engine) as connection:
                worker_id = record_worker_start(connection, 1, 0, 7, 2.0)
                assert lease_next(connection, 1, host_id=1, worker_id=worker_id, now=2.0)

    with pytest.raises(OwnershipError, match="taken over"):
        supervisor.run(take_over)
    assert count_leases(engine, "here") == 1
    with read_transaction(engine) as connection:
        assert connection.execute(select(worker.c.pid).where(worker.c.ended_at.is_(None))).scalars().all() == [7]
    other.close()


def test_host_has_one_daemon_and_is_listed_while_connected(url, tmp_path):
    engine = make_search(url)
    settings = Settings(tmp_path, url, "here")
    first, second = watch_changes(engine), watch_changes(open_record(url))
    first.lock_host(1, "here")
    with read_transaction(engine) as connection:
        assert list_connected_hosts(connection) == {1}
    with pytest.raises(ConflictError, match="EATNAS_HOST"):
        second.lock_host(1, "here")
    first.close()
    eventually(lambda: not _living(engine))
    second.lock_host(1, "here")
    second.close()
    assert settings.lock_file.name == "daemon-here.lock"


def _living(engine):
    with read_transaction(engine) as connection:
        return list_connected_hosts(connection)


def test_only_changes_by_others_are_reported(url):
    engine, other = make_search(url), open_record(url)
    watch = watch_changes(engine)
    assert watch.changed()
    assert not watch.changed()
    with transaction(engine) as connection:
        connection.execute(search.update().values(priority=1))
    with transaction(other) as connection:
        connection.execute(lease.update().values(counter=1))
    assert not watch.changed()
    with transaction(other) as connection:
        connection.execute(search.update().values(priority=2))
    eventually(watch.changed)
    assert not watch.changed()
    watch.close()
