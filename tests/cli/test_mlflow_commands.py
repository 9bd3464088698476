"""`eatnas-db mlflow` as a user types it."""

import contextlib
import json
import socket
import sqlite3
import sys

import pytest

from eatnas_daemon.followers.process import low_priority_python
from eatnas_daemon.mlflow.problems import clear_problem, record_problem
from support.mlflow_stores import free_port

pytestmark = pytest.mark.filterwarnings("ignore")


@contextlib.contextmanager
def open_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def tracking_at(monkeypatch):
    """Return a function that sets the MLflow store of the next commands."""
    return lambda uri: monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


@pytest.mark.parametrize("command", ["sync", "ui"])
def test_missing_record_is_reported_in_one_line(eatnas, command):
    (line,) = eatnas("mlflow", command, expect=1).splitlines()
    assert "no record at" in line


@pytest.mark.usefixtures("record")
def test_port_in_use_is_reported_before_mlflow_starts(eatnas, home):
    with open_port() as port:
        assert "choose another --port" in eatnas("mlflow", "ui", "--port", str(port), expect=1)
    assert not (home / "mlflow.db").exists()


@pytest.mark.usefixtures("record")
def test_ui_of_a_server_is_refused_without_showing_the_password(eatnas, tracking_at):
    tracking_at("http://me:secret@127.0.0.1:1")
    message = eatnas("mlflow", "ui", expect=1)
    assert "http://me:***@127.0.0.1:1 is an MLflow server" in message


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_unreachable_server_is_reported_without_the_password(eatnas_within, tracking_at):
    port = free_port()
    tracking_at(f"http://me:secret@127.0.0.1:{port}")
    message = eatnas_within("mlflow", "sync", expect=1)
    (line,) = message.splitlines()
    assert line.startswith(f"eatnas-db: MLflow at http://me:***@127.0.0.1:{port}: ")
    assert "secret" not in line


def tear(file):
    file.write_bytes(bytes(range(256)) * 20)


def begin_to_create(file):
    """Create the files that MLflow leaves behind if it is killed during its first migration."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY)")
        connection.commit()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("hurt", [tear, begin_to_create])
def test_damaged_store_is_reported_and_written_again(eatnas, eatnas_within, home, hurt):
    hurt(home / "mlflow.db")
    (line,) = eatnas_within("mlflow", "sync", expect=1).splitlines()
    assert line.startswith("eatnas-db: MLflow at sqlite:///")
    assert "`eatnas-db mlflow sync --rebuild` renames the file and writes a new store" in line
    # MLflow keeps the connections of a process to the file, so this command needs another process.
    output = eatnas("mlflow", "sync", "--rebuild")
    assert f"kept as {home / 'mlflow.db.old-1'}\nwrote 0 runs to sqlite:///" in output
    assert (home / "mlflow.db.old-1").exists()


@pytest.mark.usefixtures("tiny")
def test_store_of_a_server_is_not_moved(eatnas, tracking_at):
    tracking_at("http://me:secret@127.0.0.1:1")
    message = eatnas("mlflow", "sync", "--rebuild", expect=1)
    assert "http://me:***@127.0.0.1:1 is not an SQLite file, so it cannot be moved aside" in message


@pytest.mark.slow
@pytest.mark.usefixtures("record")
def test_store_outside_the_home_is_renamed_only_if_confirmed(eatnas_within, tmp_path, tracking_at):
    store = tmp_path / "shared.db"
    store.write_bytes(b"of others")
    tracking_at(f"sqlite:///{store}")
    message = eatnas_within("mlflow", "sync", "--rebuild", expect=1)
    (line,) = message.splitlines()
    assert "is not the MLflow store of this home" in line
    assert "add --yes" in line
    assert store.read_bytes() == b"of others"
    output = eatnas_within("mlflow", "sync", "--rebuild", "--yes")
    assert f"kept as {store}.old-1" in output


@pytest.mark.usefixtures("tiny")
def test_problem_of_the_follower_is_shown(eatnas_within, home):
    file = home / "logs" / "mlflow-problem.json"
    record_problem(file, "MLflow at x: OSError: gone; start it")
    assert ": MLflow at x: OSError: gone; start it" in eatnas_within("daemon", "status")
    status = json.loads(eatnas_within("daemon", "status", "--format", "json"))
    assert status["mlflow_problem"]["message"] == "MLflow at x: OSError: gone; start it"
    clear_problem(file)
    assert "MLflow" not in eatnas_within("daemon", "status")
    assert json.loads(eatnas_within("daemon", "status", "--format", "json"))["mlflow_problem"] is None


def test_a_follower_needs_no_program_but_python():
    assert low_priority_python("/bin/nice")[:3] == ("/bin/nice", "-n", "10")
    assert low_priority_python(None)[0] == sys.executable
