"""Commands on a record that is on a database server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from eatnas_daemon.daemon_lock import find_record_user

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_mlflow")]

PASSWORD = "hush-hush"


@pytest.fixture
def on_server(postgres_url, eatnas, home):
    """Return a function that runs a command with the server's URL in the environment. The URL contains a password."""
    url = postgres_url.replace("postgres:@", f"postgres:{PASSWORD}@")
    environment = {**os.environ, "EATNAS_DB_URL": url}

    def call(*arguments, **options):
        answer = eatnas(*arguments, env={**environment, **options.pop("more", {})}, **options)
        assert PASSWORD not in answer
        return answer

    yield call
    # A test that fails halfway may leave a daemon behind.
    for lock_file in home.glob("daemon-*.lock"):
        if (user := find_record_user(lock_file)) is not None:
            psutil.Process(user.process.pid).kill()


def test_search_on_a_server_shows_no_password(on_server, home, spec):
    assert "holds no eatnas-db record; run `eatnas-db init`" in on_server("search", "list", expect=1)
    assert "postgresql+psycopg://postgres@" in on_server("init")
    assert not (home / "eatnas.db").exists()
    on_server("search", "create", spec(), "--set", "training.epochs=40")  # trains long enough for the next commands
    assert json.loads(on_server("search", "list", "--format", "json"))[0]["status"] == "waiting: no daemon"
    started = on_server("daemon", "start", "--slots", "1", more={"EATNAS_HOST": "node/1"})
    daemon = psutil.Process(int(started.split()[-1]))
    for process in (daemon, *daemon.children(recursive=True)):
        assert PASSWORD not in " ".join(process.cmdline())
    status = json.loads(on_server("daemon", "status", "--format", "json"))
    assert (status["running"], status["hosts"][0]["name"], status["hosts"][0]["alive"]) == (False, "node/1", True)
    assert status["searches"][0]["status"] == "running"
    assert "daemons use this database (connected hosts: 1)" in on_server("db", "downgrade", "base", "--yes", expect=1)
    assert "pid" in on_server("daemon", "start", expect=1, more={"EATNAS_HOST": "node/1"})
    other = ("--home", str(home.parent / "other"), "run", "tiny")
    refused = on_server(*other, expect=1, more={"EATNAS_HOST": "node/1"})
    assert "another daemon is already working on this record as host 'node/1'" in refused
    on_server("run", "tiny", more={"EATNAS_HOST": "node/1"})  # a daemon is running, so this only watches
    on_server("daemon", "stop", more={"EATNAS_HOST": "node/1"})
    assert len(json.loads(on_server("query", "best", "tiny", "--format", "json"))) == 4
    output = "".join(file.read_text(errors="replace") for file in Path(home / "logs").iterdir())
    assert PASSWORD not in output
    assert "has schema version" in on_server("db", "downgrade", "base", "--yes")


def test_one_command_copies_a_record_to_a_server(on_server, home, eatnas, record, spec):
    eatnas("search", "create", spec())
    copied = on_server("db", "copy", str(home / "eatnas.db"))
    assert "compared every row" in copied
    here, there = eatnas("query", "fingerprint", "tiny"), on_server("query", "fingerprint", "tiny")
    assert here == there
    assert "is not empty" in on_server("db", "copy", str(home / "eatnas.db"), expect=1)
    assert "db backup" in eatnas("db", "copy", str(home / "eatnas.db"), expect=1)
    assert "no record at" in on_server("db", "copy", str(home / "nothing.db"), expect=1)


def test_missing_driver_is_reported_with_its_installation(home):
    program = "import sys; sys.modules['psycopg'] = None; from eatnas_cli.app import main; main()"
    command = [sys.executable, "-c", program, "--home", str(home), "--db", "postgresql://h/d", "search", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "eatnas-db: the PostgreSQL driver is not installed; install it with pip install 'eatnas-db[postgres]'\n",
    )
