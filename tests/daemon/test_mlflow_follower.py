"""The follower writes to MLflow while a search runs, and never harms the search."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import psutil
import pytest
from sqlalchemy import select

from eatnas_daemon import main
from eatnas_daemon.followers.process import RESTART_SECONDS
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.schema.searches import search
from eatnas_db.settings import load_settings
from support.mlflow_stores import (
    FOLLOWER,
    assert_store_matches,
    copy_empty_store,
    count_runs,
    finish_fourth,
    free_port,
    list_candidate_runs,
    make_follower,
    make_record,
    mlflow_server,
    running_follower,
    sync_runs,
    train_four,
)
from support.searches import create_home
from support.simulated_worker import SIMULATED_WORKER
from support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore")
CANDIDATES = 10
EXPERIMENT = "eatnas/s"


@pytest.fixture
def engine(tmp_path):
    engine = make_record(tmp_path / "eatnas.db")
    yield engine
    engine.dispose()


def short_home(folder):
    """Create a home with a search of few candidates."""
    return create_home(folder, budget__candidates=CANDIDATES)


@pytest.fixture
def settings(tmp_path, tmp_path_factory):
    """Create a home with a search of few candidates and an empty store."""
    settings = short_home(tmp_path / "home")
    copy_empty_store(tmp_path_factory, settings.home / "mlflow.db")
    return settings


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, supervise):
    """Return the fingerprint of a search without a follower."""
    return supervise(short_home(tmp_path_factory.mktemp("undisturbed") / "home"), 2)


@pytest.mark.slow
def test_concurrent_followers_create_each_run_once(engine, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    train_four(engine)
    with running_follower(engine, uri) as first, running_follower(engine, uri) as second:
        pass
    assert (first.returncode, second.returncode) == (0, 0)
    assert_store_matches(engine, uri)


@pytest.mark.slow
def test_follower_logs_a_lost_server_once_and_catches_up(engine, tmp_path):
    token = train_four(engine)
    port, log, store = free_port(), tmp_path / "follower.log", tmp_path / "server.db"
    with log.open("wb") as file, mlflow_server(tmp_path, port) as uri, running_follower(engine, uri, file) as follower:
        eventually(lambda: count_runs(store) == 4)
        os.killpg(_server_group(port), signal.SIGKILL)
        finish_fourth(engine, token)
        eventually(lambda: log.stat().st_size > 0)
        with mlflow_server(tmp_path, port):
            eventually(lambda: [run.info.status for run in list_candidate_runs(uri)[2]].count("FINISHED") == 3)
            follower.stdin.close()
            assert follower.wait(200) == 0
            assert_store_matches(engine, uri)
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"MLflow at {uri}: ")


def _server_group(port):
    (process,) = (
        process
        for process in psutil.Process().children()
        if process.cmdline()[1:4] == ["-m", "mlflow", "server"] and str(port) in process.cmdline()
    )
    return process.pid


@pytest.mark.slow
def test_sigterm_ends_a_follower_without_cleaning_up(engine, tmp_path):
    store = tmp_path / "mlflow.db"
    train_four(engine)
    with running_follower(engine, f"sqlite:///{store}") as follower:
        eventually(store.exists)
        follower.terminate()
        assert follower.wait(200) == -signal.SIGTERM


@pytest.mark.slow
def test_follower_rebuilds_a_deleted_store(engine, tmp_path):
    train_four(engine)
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    with running_follower(engine, uri) as follower:
        eventually(lambda: count_runs(store) == 4)
        store.unlink()
        eventually(lambda: count_runs(store) == 4)
    assert follower.returncode == 0
    assert_store_matches(engine, uri)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [None, 3])
def test_follower_does_not_change_a_search(tmp_path, supervise, killed_at):
    alone, followed = short_home(tmp_path / "alone"), short_home(tmp_path / "followed")
    undisturbed = supervise(alone, 2)
    engine, store = open_record(followed.database_url), followed.home / "mlflow.db"
    with running_follower(engine, followed.mlflow_uri) as follower:
        eventually(store.exists)

        def kill_follower(_):
            with read_transaction(engine) as connection:
                scored = connection.execute(select(search.c.scored)).scalar_one()
            if killed_at and scored >= killed_at and follower.poll() is None:
                # The supervisor waits in this function, so that the search does not end before the kill.
                eventually(lambda: count_runs(store) >= killed_at)
                follower.kill()
                follower.wait()

        slower = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
        assert supervise(followed, 2, slower, kill_follower) == undisturbed
    assert follower.returncode == (-signal.SIGKILL if killed_at else 0)
    assert (count_runs(store) < CANDIDATES) == bool(killed_at)
    assert (sync_runs(engine, followed.mlflow_uri) > 0) == bool(killed_at)
    assert_store_matches(engine, followed.mlflow_uri, EXPERIMENT)
    assert sync_runs(engine, followed.mlflow_uri) == 0
    assert sync_runs(open_record(alone.database_url), alone.mlflow_uri) == CANDIDATES


class RejectingHandler(BaseHTTPRequestHandler):
    """Refuses every request after waiting for `seconds`, and remembers the credentials of the request."""

    seconds = 0.0
    credentials: ClassVar[list[str | None]] = []

    def refuse(self):
        self.credentials.append(self.headers["Authorization"])
        time.sleep(self.seconds)
        with suppress(OSError):  # the client may have closed the connection
            self.send_error(403, "forbidden")

    do_GET = do_POST = do_PUT = refuse  # noqa: N815

    def log_message(self, *_):
        pass


@contextmanager
def rejecting_server(seconds):
    """Run a server that refuses every request. Yield its URL and the credentials that it receives."""
    handler = type("Handler", (RejectingHandler,), {"credentials": [], "seconds": seconds})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.credentials
        server.shutdown()


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")


@contextmanager
def started_follower(settings, uri):
    """Yield the follower of a daemon and the process of the follower, which is killed at the end."""
    follower = make_follower(settings.database_url, uri, settings.logs / "mlflow.log")
    follower.start()
    process = psutil.Process(follower.pid)
    try:
        yield follower, process
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def assert_search_is_unaffected(settings, supervise, undisturbed, follower):
    """Run the search while a follower that cannot write is running. Require an unchanged fingerprint."""
    assert supervise(settings, 2, on_tick=lambda _: follower.restart_if_dead()) == undisturbed
    follower.stop()


def assert_sync_catches_up(settings):
    engine = open_record(settings.database_url)
    assert sync_runs(engine, settings.mlflow_uri) == CANDIDATES
    assert_store_matches(engine, settings.mlflow_uri, EXPERIMENT)
    assert sync_runs(engine, settings.mlflow_uri) == 0


def assert_error_is_logged(settings, follower):
    eventually(lambda: follower.pid is None)
    assert (settings.logs / "mlflow.log").read_text().startswith("MLflow at ")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 10.0], ids=["rejecting", "slow"])
@pytest.mark.usefixtures("credentials")
def test_search_is_unaffected_by_a_rejecting_or_slow_server(settings, supervise, undisturbed, seconds):
    with rejecting_server(seconds) as (uri, credentials), started_follower(settings, uri) as (follower, _):
        eventually(lambda: credentials)
        assert_search_is_unaffected(settings, supervise, undisturbed, follower)
        if not seconds:
            assert_error_is_logged(settings, follower)
        assert set(credentials) == {"Basic bWU6c2VjcmV0"}


@pytest.mark.slow
def test_search_is_unaffected_by_an_unreachable_server(settings, supervise, undisturbed):
    with started_follower(settings, f"http://127.0.0.1:{free_port()}") as (follower, _):
        assert_search_is_unaffected(settings, supervise, undisturbed, follower)
        assert_error_is_logged(settings, follower)


@pytest.mark.slow
def test_search_is_unaffected_by_a_locked_store(settings, supervise, undisturbed):
    with ExitStack() as stack:
        holder = stack.enter_context(closing(sqlite3.connect(settings.home / "mlflow.db", isolation_level=None)))
        holder.execute("BEGIN EXCLUSIVE")
        follower, _ = stack.enter_context(started_follower(settings, settings.mlflow_uri))
        assert_search_is_unaffected(settings, supervise, undisturbed, follower)
        assert_error_is_logged(settings, follower)
    assert_sync_catches_up(settings)


@pytest.mark.slow
def test_search_is_unaffected_by_a_full_disk_of_the_store(tmp_path, supervise, undisturbed):
    settings = short_home(tmp_path / "home")
    with started_follower(settings, settings.mlflow_uri) as (follower, process):
        process.rlimit(psutil.RLIMIT_FSIZE, (50_000, 50_000))
        assert_search_is_unaffected(settings, supervise, undisturbed, follower)
        assert_error_is_logged(settings, follower)
    (settings.home / "mlflow.db").unlink(missing_ok=True)
    assert_sync_catches_up(settings)


@pytest.mark.slow
def test_search_is_unaffected_by_a_frozen_follower(settings, supervise, undisturbed):
    with started_follower(settings, settings.mlflow_uri) as (follower, process):
        process.suspend()
        assert_search_is_unaffected(settings, supervise, undisturbed, follower)
    assert_sync_catches_up(settings)


@pytest.mark.slow
def test_follower_runs_at_low_priority_and_hides_passwords(engine, tmp_path):
    log = tmp_path / "logs" / "mlflow.log"
    follower = make_follower(str(engine.url), f"http://me:secret@127.0.0.1:{free_port()}", log)
    follower.start()
    process = psutil.Process(follower.pid)
    try:
        eventually(lambda: process.nice() == min(19, psutil.Process().nice() + 10))
        assert os.getsid(process.pid) == process.pid
        eventually(lambda: log.stat().st_size > 0)
        assert "secret" not in " ".join(process.cmdline())
    finally:
        follower.stop()
        eventually(lambda: follower.pid is None)
    assert "me:***@127.0.0.1" in log.read_text()
    assert "secret" not in log.read_text()


def test_dead_follower_restarts_after_a_pause_unless_stopped(engine, tmp_path):
    now = 0.0
    follower = make_follower(str(engine.url), f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "log", lambda: now)
    follower.restart_if_dead()
    assert follower.pid is None
    follower.start()
    first = follower.pid
    now = RESTART_SECONDS
    follower.restart_if_dead()
    assert follower.pid == first
    os.killpg(first, signal.SIGKILL)
    eventually(lambda: follower.pid is None)
    now = RESTART_SECONDS - 1
    follower.restart_if_dead()
    assert follower.pid is None
    now = RESTART_SECONDS
    follower.restart_if_dead()
    second = follower.pid
    assert second not in (None, first)
    os.killpg(second, signal.SIGKILL)
    follower.stop()
    eventually(lambda: follower.pid is None)
    now = 3 * RESTART_SECONDS
    follower.restart_if_dead()
    assert follower.pid is None


@pytest.mark.slow
def test_follower_of_a_killed_parent_writes_everything_and_exits(engine, tmp_path):
    script = """
import sys
from pathlib import Path
from eatnas_daemon.followers.process import Follower
environment = {"EATNAS_DB_URL": sys.argv[1], "MLFLOW_TRACKING_URI": sys.argv[2]}
follower = Follower((sys.argv[4],), environment, Path(sys.argv[3]))
follower.start()
print(follower.pid, flush=True)
sys.stdin.read()
"""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-c", script, str(engine.url), uri, str(tmp_path / "log"), FOLLOWER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        follower = psutil.Process(int(parent.stdout.readline()))
        eventually(lambda: (tmp_path / "mlflow.db").exists())
        train_four(engine)
        parent.kill()
    eventually(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE)
    assert (tmp_path / "log").read_text() == ""
    assert_store_matches(engine, uri)


def test_no_follower_is_started_if_mlflow_is_off(tmp_path, monkeypatch):
    settings = load_settings({}, str(tmp_path))
    assert len(main._followers(settings)) == 1
    monkeypatch.setenv("EATNAS_MLFLOW", "off")
    assert main._followers(settings) == []
    monkeypatch.setenv("EATNAS_MLFLOW", "no")
    with pytest.raises(RecordError, match="EATNAS_MLFLOW is 'no'; expected on or off"):
        main._followers(settings)


def test_follower_that_cannot_start_raises_nothing(engine, tmp_path):
    (tmp_path / "file").touch()
    follower = make_follower(str(engine.url), f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "file" / "log")
    follower.start()
    follower.restart_if_dead()
    follower.stop()
    assert follower.pid is None


def test_follower_without_a_record_fails_with_one_line(tmp_path):
    environment = {"EATNAS_DB_URL": f"sqlite:///{tmp_path / 'none.db'}", "MLFLOW_TRACKING_URI": "sqlite:///unused.db"}
    done = subprocess.run(
        [sys.executable, "-m", FOLLOWER],
        env={**os.environ, **environment},
        input=b"",
        capture_output=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("no record at")
