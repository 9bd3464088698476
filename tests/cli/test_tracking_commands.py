"""`eatnas-db mlflow`, as a user types it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import psutil
import pytest

SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 1, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 4}
yardstick: {top: 0}
"""


@pytest.fixture
def command(tmp_path):
    return [sys.executable, "-m", "eatnas_cli", "--home", str(tmp_path / "home")]


@pytest.fixture
def eatnas(command, tmp_path):
    def call(*arguments, expect=0, **environment):
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        if expect:
            assert len(done.stderr.splitlines()) == 1
            return done.stderr
        return done.stdout

    return call


@pytest.fixture
def search(eatnas, tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    eatnas("init")
    eatnas("search", "create", "spec.yaml")


@contextmanager
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("name", ["sync", "ui"])
def test_where_there_is_no_record_one_line_says_so(eatnas, name):
    assert "no record at" in eatnas("mlflow", name, expect=1)


def test_a_taken_port_is_told_before_mlflow_is_touched(eatnas, tmp_path):
    eatnas("init")
    with taken_port() as port:
        assert "choose another --port" in eatnas("mlflow", "ui", "--port", str(port), expect=1)
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_a_server_has_its_own_pages_and_its_password_is_not_shown(eatnas):
    eatnas("init")
    told = eatnas("mlflow", "ui", expect=1, MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:1")
    assert "http://me:***@127.0.0.1:1 is an MLflow server already" in told


@pytest.mark.slow
@pytest.mark.usefixtures("search")
def test_a_server_that_does_not_answer_is_one_line_without_the_password(eatnas):
    with taken_port() as port:
        closed = port
    told = eatnas("mlflow", "sync", expect=1, MLFLOW_TRACKING_URI=f"http://me:secret@127.0.0.1:{closed}")
    assert told.startswith(f"eatnas-db: MLflow at http://me:***@127.0.0.1:{closed}: ")
    assert "secret" not in told


@pytest.mark.slow
@pytest.mark.usefixtures("search")
def test_the_real_pages_open_on_this_home(command, tmp_path):
    with taken_port() as port:
        free = port
    with (tmp_path / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "mlflow", "ui", "--port", str(free)],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        page = answer(process, f"http://127.0.0.1:{free}/")
        assert page.headers.get_content_type() == "text/html"
        assert b"<html" in page.read().lower()
        request = urllib.request.Request(
            f"http://127.0.0.1:{free}/api/2.0/mlflow/experiments/search",
            data=json.dumps({"max_results": 10}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            experiments = json.load(response)["experiments"]
        assert "eatnas/tiny" in {experiment["name"] for experiment in experiments}
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert not [one for one in family if "mlflow.db" in " ".join(one.cmdline())]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "0 runs written to sqlite:///" in (tmp_path / "ui.log").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["home", "spec.yaml", "ui.log"]


def answer(process, address):
    deadline = time.monotonic() + 120
    while True:
        try:
            return urllib.request.urlopen(address, timeout=5)
        except OSError:
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "nobody answers"
            time.sleep(0.05)
