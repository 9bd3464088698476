"""While a database neither answers nor cancels statements, the daemon waits, and can always be stopped."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import create_engine, text

from eatnas_daemon.supervision.stop_signals import EXIT_STATUS
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.settings import Settings
from support.searches import create_record, fingerprint_of
from support.simulated_worker import SIMULATED_WORKER

QUICK = Timeouts(tick=0.02, database=0.05)
STUCK = """
import time
from eatnas_daemon.supervision.stop_signals import stop_on_signals
with stop_on_signals(lambda: print("stop", flush=True), lambda: print("kill", flush=True), grace_seconds=0.2):
    print("ready", flush=True)
    # The default thread's wait is not interrupted: the handlers do not raise.
    while True:
        time.sleep(600)
"""
DEAF = """
import ctypes, os
from eatnas_daemon.supervision.stop_signals import stop_on_signals
with stop_on_signals(lambda: None, lambda: print("kill", flush=True), grace_seconds=0.2):
    print("ready", flush=True)
    # A call into C that knows nothing of Python's signal handlers.
    receiver, sender = os.pipe()
    buffer = ctypes.create_string_buffer(1)
    while True:
        ctypes.CDLL(None).read(receiver, buffer, 1)
"""


@contextmanager
def frozen(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("program", [STUCK, DEAF])
def test_second_signal_ends_a_process_that_is_stuck(program):
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    assert process.wait(200) == EXIT_STATUS
    assert process.stdout.read().endswith("kill\n")
    process.stdout.close()


def ask_frozen_backend(engine, pids):
    with read_transaction(engine) as connection:
        pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        with frozen(pids):
            connection.execute(text("SELECT 1"))


@pytest.mark.slow
def test_frozen_server_is_given_up_after_a_while(postgres_url):
    create_record(postgres_url).dispose()
    engine = open_record(postgres_url, answer_seconds=3)
    pids = []
    with pytest.raises(RecordError, match=r"no answer within 3 s"):
        ask_frozen_backend(engine, pids)
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() not in pids
    engine.dispose()


def supervise(url, folder, on_tick, at_end=lambda: None, **options):
    """Supervise a search, call `at_end`, and return the fingerprint."""
    engine = open_record(url, busy_seconds=1, answer_seconds=0.5)
    settings = Settings(folder, url)
    program = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.005", "--scramble")
    launcher = Launcher(settings.logs, program)
    supervisor = Supervisor(engine, settings, launcher, slots=2, host_name="here", only="s", timeouts=QUICK, **options)
    supervisor.run(on_tick)
    at_end()
    fingerprint = fingerprint_of(engine)
    engine.dispose()
    return fingerprint


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    url = f"sqlite:///{folder / 'eatnas.db'}"
    create_record(url).dispose()
    return supervise(url, folder, lambda _: None)


@pytest.mark.slow
def test_cancelled_statements_are_repeated(postgres_url, tmp_path, expected):
    create_record(postgres_url).dispose()
    ended = threading.Event()
    cancelled = []
    cancel = text(
        "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'"
    )

    def disturb():
        engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            while not ended.wait(0.01) and sum(cancelled) < 50:
                cancelled.append(connection.execute(cancel).scalar_one())
        engine.dispose()

    thread = threading.Thread(target=disturb)
    troubles = set()

    def observe(supervisor):
        troubles.add(supervisor.trouble)
        if not thread.ident:
            thread.start()

    def stop_disturbing():
        ended.set()
        thread.join()

    try:
        assert supervise(postgres_url, tmp_path, observe, stop_disturbing) == expected
    finally:
        stop_disturbing()
    assert sum(cancelled)
    assert not any("unexpected" in trouble for trouble in troubles if trouble)


@pytest.mark.slow
def test_daemon_with_a_frozen_server_connection_goes_on(postgres_url, tmp_path, expected):
    create_record(postgres_url).dispose()
    admin = create_engine(postgres_url)
    backends = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
    stopped, seen = [], set()

    def freeze(supervisor):
        seen.add(supervisor.trouble)
        if not stopped and any(slot.training is not None for slot in supervisor.slots):
            with admin.connect() as connection:
                stopped.extend(connection.execute(backends).scalars())
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
        elif supervisor.trouble is not None:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    assert supervise(postgres_url, tmp_path, freeze) == expected
    assert any("no answer within" in trouble for trouble in seen if trouble)
    admin.dispose()
