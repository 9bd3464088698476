"""`eatnas-db mlflow` as a user types it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import psutil
import pytest

from support.mlflow_stores import free_port
from support.waiting import eventually


@contextmanager
def open_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def tracking_at(uri):
    return {"env": {**os.environ, "MLFLOW_TRACKING_URI": uri}}


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
def test_ui_of_a_server_is_refused_without_showing_the_password(eatnas):
    message = eatnas("mlflow", "ui", expect=1, **tracking_at("http://me:secret@127.0.0.1:1"))
    assert "http://me:***@127.0.0.1:1 is an MLflow server" in message


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_unreachable_server_is_reported_without_the_password(eatnas):
    port = free_port()
    message = eatnas("mlflow", "sync", expect=1, **tracking_at(f"http://me:secret@127.0.0.1:{port}"))
    (line,) = message.splitlines()
    assert line.startswith(f"eatnas-db: MLflow at http://me:***@127.0.0.1:{port}: ")
    assert "secret" not in line


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_ui_serves_the_store_of_the_home(tmp_path, home):
    port = free_port()
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), "mlflow", "ui", "--port", str(port)]
    with (tmp_path / "ui.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        page = eventually(lambda: open_page(process, f"http://127.0.0.1:{port}/"))
        assert page.headers.get_content_type() == "text/html"
        assert b"<html" in page.read().lower()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
            data=json.dumps({"max_results": 10}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            experiments = json.load(response)["experiments"]
        assert "eatnas/tiny" in {experiment["name"] for experiment in experiments}
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert not [child for child in processes if "mlflow.db" in " ".join(child.cmdline())]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "wrote 0 runs to sqlite:///" in (tmp_path / "ui.log").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["home", "ui.log"]


def open_page(process, url):
    """The response; None while nothing listens there."""
    assert process.poll() is None, "the server has exited"
    try:
        return urllib.request.urlopen(url, timeout=5)
    except OSError:
        return None
