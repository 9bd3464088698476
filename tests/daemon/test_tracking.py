"""The MLflow store says what the record says, once, whatever happens to the processes between."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import psutil
import pytest
from sqlalchemy import insert, select

from eatnas_daemon import lock
from eatnas_daemon.follower import RESTART_SECONDS, Follower
from eatnas_daemon.mlflow.candidate_runs import STATUSES
from eatnas_daemon.mlflow.client import connect, hide_passwords
from eatnas_daemon.mlflow.metrics import EPOCH_METRICS
from eatnas_daemon.mlflow.search_runs import STEP_METRICS
from eatnas_daemon.mlflow.sync import MlflowSync
from eatnas_daemon.mlflow.sync import sync as sync_all
from eatnas_db import training_record, transitions
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import CandidateState, DesiredState, FailureKind
from eatnas_db.provenance import Provenance
from eatnas_db.schema.candidates import architecture, candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.record import record
from eatnas_db.schema.searches import search, step
from eatnas_db.schema.trainings import epoch
from eatnas_db.searches.advance import breed_births, settle_births
from eatnas_db.searches.control import set_desired_state
from eatnas_db.searches.create import create_search
from eatnas_migrations import commands
from support.simulated_worker import SIMULATED_WORKER

pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = {
    "name": "small",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 2},
    "evolution": {"population": 2, "tournament": 1, "lag": 1},
    "budget": {"candidates": 5},
}
MADE_UNDER = Provenance("d" * 64, {}, "e" * 64, {}, "processor", "none")


@pytest.fixture
def engine(tmp_path):
    engine = make_record(tmp_path / "eatnas.db")
    yield engine
    engine.dispose()


def make_record(file):
    engine = create_engine_for(f"sqlite:///{file}")
    commands.upgrade(engine)
    spec = parse_spec(SPEC)
    with transaction(engine) as connection:
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=100.0)
        connection.execute(insert(host).values(id=1, name="here", seen_at=100.0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=100.0))
    return engine


def lease(connection, now):
    return transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=now).token


def report(connection, token, number, now):
    use = training_record.ResourceUse(50_000_000, 0.75)
    epoch = training_record.EpochRecord(number, 2.0 - number, 0.25, 1.5, 0.5, 0.1, 1.0, now, use)
    training_record.record_epochs(connection, token, [epoch], now)


def score(connection, token, now):
    transitions.record_score(
        connection,
        token,
        fitness=0.5,
        metrics={"val_accuracy": 0.5},
        seed=1,
        provenance=MADE_UNDER,
        device_seconds=2.0,
        now=now,
    )
    settle_births(connection, 1, now)
    breed_births(connection, 1, now)


def fill(engine):
    """Two scored, one child failed, the next in training with one epoch."""
    with transaction(engine) as connection:
        for now in (1000.0, 2000.0):
            token = lease(connection, now)
            report(connection, token, 0, now + 10.25)
            report(connection, token, 1, now + 20)
            score(connection, token, now + 30)
        token = lease(connection, 3000.0)
        transitions.record_failure(connection, token, FailureKind.DIVERGED, "nan", now=3010.0)
        settle_births(connection, 1, 3010.0)
        breed_births(connection, 1, 3010.0)
        token = lease(connection, 4000.0)
        report(connection, token, 0, 4010.0)
    return token


def runs_of(uri, name="eatnas/small"):
    """The client, the experiment, and its candidates' runs."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    return client, experiment, [run for run in runs if "eatnas.candidate" in run.data.tags]


def summary_of(uri, name="eatnas/small"):
    client = connect(uri)
    experiment = client.get_experiment_by_name(name)
    (run,) = client.search_runs([experiment.experiment_id], "tags.`eatnas.summary` LIKE '%'")
    return client, run


def sync(engine, uri):
    """Without pictures, which take seconds to draw."""
    return sync_all(engine, uri, pictures=False)


def assert_agreement(engine, uri, name="eatnas/small"):
    """One run for each candidate that was ever tried, and everything in it is the record's."""
    client, experiment, runs = runs_of(uri, name)
    with read_transaction(engine) as connection:
        uuid = connection.execute(select(record.c.uuid)).scalar_one()
        rows = connection.execute(select(candidate).where(candidate.c.attempt > 0)).all()
        epochs = connection.execute(select(epoch).order_by(epoch.c.number)).all()
        searched = connection.execute(select(search)).one()
    assert experiment.tags["eatnas.record"] == uuid
    assert experiment.tags["eatnas.search"] == searched.name
    assert experiment.tags["eatnas.space"] == "eatnas-tiny"
    assert experiment.tags["eatnas.seed"] == str(searched.seed)
    assert searched.name in experiment.tags["mlflow.note.content"]
    assert sorted(run.data.tags["eatnas.candidate"] for run in runs) == sorted(f"{uuid}/{row.id}" for row in rows)
    by_id = {int(run.data.tags["eatnas.candidate"].split("/")[1]): run for run in runs}
    for row in rows:
        run = by_id[row.id]
        assert (
            run.info.status == "KILLED" if row.state == CandidateState.LEASED else STATUSES[CandidateState(row.state)]
        )
        parent = by_id[row.parent_id].info.run_id if row.parent_id else None
        assert run.data.tags.get("mlflow.parentRunId") == parent
        assert run.data.params["origin"] == row.origin
        assert (run.data.params["params"], run.data.params["mult_adds"]) == (str(row.params), str(row.mult_adds))
        assert [run.data.params[f"block{number}"] for number in range(1, 8)]
        assert run.data.params["epochs"] == str(searched.spec["training"]["epochs"])
        assert run.data.metrics.get("fitness") == row.fitness
        for metric in EPOCH_METRICS:
            history = client.get_metric_history(run.info.run_id, metric)
            assert [(m.step, m.timestamp, m.value) for m in history] == [
                (e.number, round(e.ended_at * 1000), getattr(e, metric)) for e in epochs if e.candidate_id == row.id
            ]
    return client, {int(run.data.tags["eatnas.birth"]): run for run in runs}


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def runs_in(store):
    """How many runs an SQLite store has, asked without MLflow, which would keep the file open."""
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute("SELECT count(*) FROM runs WHERE name LIKE 'birth %'").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def server(folder, port):
    """A real MLflow server, killed with all its processes at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", folder / "files"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or answers(f"{uri}/health"))
        assert process.poll() is None, (folder / "server.log").read_text()
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def follower_of(url, uri, log, *more):
    addresses = {"EATNAS_DB_URL": url, "MLFLOW_TRACKING_URI": uri}
    return Follower(("eatnas_daemon.mlflow",), addresses, log, *more)


@contextmanager
def following(engine, uri, log=subprocess.DEVNULL):
    """A real follower with a short breath; at the end it is told to leave and has to."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eatnas_daemon.mlflow", "--every", "0.1"],
        env={**os.environ, "EATNAS_DB_URL": str(engine.url), "MLFLOW_TRACKING_URI": uri},
        stdin=subprocess.PIPE,
        stderr=log,
    )
    try:
        yield process
        process.stdin.close()
        process.wait(60)
    finally:
        process.kill()
        process.stdin.close()
        process.wait()


@pytest.mark.slow
def test_the_store_says_what_the_record_says_and_is_rebuilt(engine, tmp_path):
    token = fill(engine)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert sync(engine, uri) == 4
    client, runs = assert_agreement(engine, uri)
    assert [runs[birth].info.status for birth in range(4)] == ["FINISHED", "FINISHED", "FAILED", "KILLED"]
    assert "mlflow.parentRunId" in runs[2].data.tags
    first = runs[0]
    assert (first.info.run_name, first.info.start_time, first.info.end_time) == ("birth 0", 1_000_000, 1_030_000)
    history = client.get_metric_history(first.info.run_id, "train_loss")
    assert [(m.step, m.timestamp, m.value) for m in history] == [(0, 1_010_250, 2.0), (1, 1_020_000, 1.0)]
    for metric, value in (("worker_memory_usage_megabytes", 50.0), ("worker_utilization_percentage", 75.0)):
        history = client.get_metric_history(first.info.run_id, f"system/{metric}")
        assert [(m.step, m.value) for m in history] == [(0, value), (1, value)]

    assert sync(engine, uri) == 0
    with transaction(engine) as connection:
        report(connection, token, 1, 4020.0)
        score(connection, token, 4030.0)
    assert sync(engine, uri) == 1
    client, runs = assert_agreement(engine, uri)
    assert runs[3].info.status == "FINISHED"
    assert all(a.step < b.step for a, b in pairwise(client.get_metric_history(runs[3].info.run_id, "val_loss")))

    another = f"sqlite:///{tmp_path / 'another.db'}"
    assert sync(engine, another) == 4
    assert_agreement(engine, another)


@pytest.mark.slow
def test_a_look_costs_what_has_changed_and_not_the_history(engine, tmp_path):
    token = fill(engine)
    client = Counting(connect(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    mirror = MlflowSync(engine, client)
    with lock.hold(tmp_path / "eatnas.db.lock"):  # as a supervisor does
        assert mirror.sync_changes() == 4
        client.calls.clear()
        assert (mirror.sync_changes(), client.calls) == (0, [])
        with transaction(engine) as connection:
            report(connection, token, 1, 4020.0)
        assert (mirror.sync_changes(), client.calls) == (1, ["log_batch"])
        assert statuses(client.client)[3] == "RUNNING"
        client.calls.clear()
        with transaction(engine) as connection:
            score(connection, token, 4030.0)
        # The second batch is the search's: another step of its curve.
        assert (mirror.sync_changes(), client.calls) == (1, ["log_batch", "set_terminated", "log_batch"])
        client.calls.clear()
        assert (mirror.sync_changes(), client.calls) == (0, [])
        with transaction(engine) as connection:
            failed = connection.execute(
                select(candidate.c.id).where(candidate.c.state == CandidateState.FAILED)
            ).scalar_one()
            transitions.retry(connection, failed, 5000.0)
        assert (mirror.sync_changes(), client.calls) == (1, ["log_batch", "update_run"])
        assert statuses(client.client)[2] == "SCHEDULED"


def statuses(client):
    """By birth."""
    experiment = client.get_experiment_by_name("eatnas/small")
    runs = client.search_runs([experiment.experiment_id], "tags.`eatnas.birth` LIKE '%'")
    return {int(run.data.tags["eatnas.birth"]): run.info.status for run in runs}


@pytest.mark.slow
def test_what_nobody_trains_is_not_running_and_goes_on_where_somebody_does(engine, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fill(engine)
    with lock.hold(tmp_path / "eatnas.db.lock"):
        sync(engine, uri)
        assert (statuses(connect(uri))[3], summary_of(uri)[1].info.status) == ("RUNNING", "RUNNING")
        # As the follower of a supervisor that is about to leave.
        MlflowSync(engine, connect(uri)).sync_changes(stopping_pid=os.getpid())
        assert (statuses(connect(uri))[3], summary_of(uri)[1].info.status) == ("KILLED", "SCHEDULED")
        sync(engine, uri)
        assert statuses(connect(uri))[3] == "RUNNING"
    with transaction(engine) as connection:
        set_desired_state(connection, "small", DesiredState.CANCELLED, 5000.0)
    sync(engine, uri)
    assert (statuses(connect(uri))[3], summary_of(uri)[1].info.status) == ("KILLED", "KILLED")


@pytest.mark.slow
def test_a_search_has_a_summary_with_its_curve_and_pictures_and_each_run_its_architecture(engine, tmp_path):
    fill(engine)
    for home in (tmp_path / "one", tmp_path / "two"):  # the second as if the first were lost
        home.mkdir()
        uri = f"sqlite:///{home / 'mlflow.db'}"
        assert sync_all(engine, uri) == 4
        client, summary = summary_of(uri)
        with read_transaction(engine) as connection:
            curve = connection.execute(select(step).order_by(step.c.number)).all()
            rows = {row.id: row for row in connection.execute(select(candidate.c.id, architecture).join(architecture))}
        for name in STEP_METRICS:
            history = client.get_metric_history(summary.info.run_id, name)
            wanted = [(one.number, round(1000 * one.at), getattr(one, name)) for one in curve]
            assert [(m.step, m.timestamp, m.value) for m in history] == [one for one in wanted if one[2] is not None]
        assert summary.data.params["training.epochs"] == "2"
        best = summary.data.tags["eatnas.best_run"]
        assert client.get_run(best).data.tags["eatnas.birth"] == "0"
        assert f"/runs/{best})" in summary.data.tags["mlflow.note.content"]
        experiment = client.get_experiment(summary.info.experiment_id)
        assert f"/runs/{summary.info.run_id})" in experiment.tags["mlflow.note.content"]
        pictures = sorted(file.path for file in client.list_artifacts(summary.info.run_id))
        assert pictures == ["lineage.png", "pareto.png", "quality-over-compute.png", "quality.png", "report.html"]
        _, _, runs = runs_of(uri)
        for run in runs:
            folder = Path(client.download_artifacts(run.info.run_id, ""))
            told = json.loads((folder / "architecture.json").read_text())
            row = rows[int(run.data.tags["eatnas.candidate"].split("/")[1])]
            assert (told["code"], told["digest"], len(told["blocks"])) == (row.genotype, row.digest, 7)
            assert ElementTree.parse(folder / "architecture.svg").getroot().tag.endswith("svg")

        drawn = (Path(client.download_artifacts(summary.info.run_id, "")) / "report.html").stat()
        assert sync_all(engine, uri) == 0
        again = (Path(client.download_artifacts(summary.info.run_id, "")) / "report.html").stat()
        assert again.st_mtime_ns == drawn.st_mtime_ns
        assert summary.info.artifact_uri.startswith((home / "mlflow-artifacts").as_uri())


@pytest.mark.slow
def test_files_that_cannot_be_written_are_told_once_and_cost_no_run(engine, tmp_path, capfd):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fill(engine)
    (tmp_path / "mlflow-artifacts").touch()
    assert sync(engine, uri) == 4
    assert_agreement(engine, uri)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("MLflow stores runs but no files: ")
    (tmp_path / "mlflow-artifacts").unlink()
    assert (sync(engine, uri), sync(engine, uri)) == (4, 0)
    client, _, runs = runs_of(uri)
    assert [len(client.list_artifacts(run.info.run_id)) for run in runs] == [2, 2, 2, 2]


class Counting:
    """MLflow's client, with a note of what was asked of it."""

    def __init__(self, client):
        self.client, self.calls, self.tracking_uri = client, [], client.tracking_uri

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append(name)
            return getattr(self.client, name)(*arguments, **options)

        return call


@pytest.mark.slow
def test_two_writers_by_turns_make_no_run_twice(engine, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mirror = MlflowSync(engine, connect(uri))
    assert mirror.sync_changes() == 0
    fill(engine)
    assert sync(engine, uri) == 4
    mirror.sync_changes()
    assert_agreement(engine, uri)
    assert sync(engine, uri) == 0


@pytest.mark.slow
def test_writers_at_the_same_time_make_no_run_twice(engine, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fill(engine)
    with following(engine, uri) as one, following(engine, uri) as two:
        pass
    assert (one.returncode, two.returncode) == (0, 0)
    assert_agreement(engine, uri)


@pytest.mark.slow
def test_searches_of_one_name_in_two_records_have_an_experiment_each(engine, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    other = make_record(tmp_path / "other.db")
    fill(engine)
    fill(other)
    with read_transaction(other) as connection:
        uuid = connection.execute(select(record.c.uuid)).scalar_one()
    for written in (4, 0):
        assert [sync(engine, uri), sync(other, uri)] == [written, written]
    assert_agreement(engine, uri)
    assert_agreement(other, uri, f"eatnas/small ({uuid[:8]})")
    other.dispose()


@pytest.mark.slow
def test_a_deleted_experiment_comes_back(engine, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fill(engine)
    sync(engine, uri)
    client, experiment, _ = runs_of(uri)
    client.delete_experiment(experiment.experiment_id)
    sync(engine, uri)
    assert_agreement(engine, uri)


@pytest.mark.slow
def test_a_real_server_gets_it_over_http_and_nothing_twice(engine, tmp_path):
    token = fill(engine)
    with server(tmp_path, free_port()) as uri:
        assert sync(engine, uri) == 4
        assert_agreement(engine, uri)
        assert sync(engine, uri) == 0
        with transaction(engine) as connection:
            report(connection, token, 1, 4020.0)
            score(connection, token, 4030.0)
        assert sync(engine, uri) == 1
        assert_agreement(engine, uri)


@pytest.mark.slow
def test_a_follower_tells_once_that_the_server_has_gone_and_catches_up_when_it_is_back(engine, tmp_path):
    token = fill(engine)
    port, log, store = free_port(), tmp_path / "follower.log", tmp_path / "server.db"
    with log.open("wb") as file, server(tmp_path, port) as uri, following(engine, uri, file) as follower:
        until(lambda: runs_in(store) == 4)
        os.killpg(server_group(port), signal.SIGKILL)
        with transaction(engine) as connection:
            report(connection, token, 1, 4020.0)
            score(connection, token, 4030.0)
        until(lambda: log.stat().st_size > 0)
        with server(tmp_path, port):
            until(lambda: [run.info.status for run in runs_of(uri)[2]].count("FINISHED") == 3)
            follower.stdin.close()
            assert follower.wait(60) == 0
            assert_agreement(engine, uri)
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"MLflow at {uri}: ")


def server_group(port):
    (process,) = (
        process
        for process in psutil.Process().children()
        if process.cmdline()[1:4] == ["-m", "mlflow", "server"] and str(port) in process.cmdline()
    )
    return process.pid


@pytest.mark.slow
def test_a_follower_rebuilds_a_deleted_store_and_ends_with_its_input(engine, tmp_path):
    fill(engine)
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    with following(engine, uri) as follower:
        until(lambda: runs_in(store) == 4)
        store.unlink()
        until(lambda: runs_in(store) == 4)
    assert follower.returncode == 0
    assert_agreement(engine, uri)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [None, 3])
def test_a_follower_absent_running_or_killed_changes_nothing_and_sync_completes_it(
    tmp_path, home, supervise, killed_at
):
    alone, followed = home(tmp_path / "alone"), home(tmp_path / "followed")
    undisturbed = supervise(alone, 2)
    engine, store = open_record(followed.database_url), followed.home / "mlflow.db"
    with following(engine, followed.mlflow_uri) as follower:
        until(store.exists)

        def disturb(_):
            with read_transaction(engine) as connection:
                scored = connection.execute(select(search.c.scored)).scalar_one()
            if killed_at and scored >= killed_at and follower.poll() is None:
                # Supervision stands still meanwhile: so the follower is in the midst of it on a busy machine too.
                until(lambda: runs_in(store) >= killed_at)
                follower.kill()
                follower.wait()

        slower = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
        assert supervise(followed, 2, slower, disturb) == undisturbed
    assert follower.returncode == (-signal.SIGKILL if killed_at else 0)
    assert (runs_in(store) < 24) == bool(killed_at)
    assert (sync(engine, followed.mlflow_uri) > 0) == bool(killed_at)
    assert_agreement(engine, followed.mlflow_uri, "eatnas/s")
    assert sync(engine, followed.mlflow_uri) == 0
    assert sync(open_record(alone.database_url), alone.mlflow_uri) == 24


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, home, supervise):
    """The fingerprint of a search that nobody followed."""
    return supervise(home(tmp_path_factory.mktemp("undisturbed") / "home"), 2)


def end(process):
    with suppress(psutil.NoSuchProcess):
        process.kill()


class BadServer(BaseHTTPRequestHandler):
    """Answers every request after `seconds`, by a refusal."""

    seconds = 0.0
    asked: ClassVar[list[str | None]] = []

    def answer(self):
        self.asked.append(self.headers["Authorization"])
        time.sleep(self.seconds)
        with suppress(OSError):  # who asked may have gone
            self.send_error(403, "not you")

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["slow", "rejecting", "gone", "locked", "full", "frozen"])
def test_whatever_ails_mlflow_the_search_goes_its_way_and_sync_catches_up(
    tmp_path, home, supervise, undisturbed, monkeypatch, trouble
):
    settings = home(tmp_path / "home")
    uri, store = settings.mlflow_uri, settings.home / "mlflow.db"
    engine = open_record(settings.database_url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    asked = []
    with ExitStack() as stack:
        bad = uri
        if trouble in ("slow", "rejecting"):
            handler = type("Handler", (BadServer,), {"asked": asked, "seconds": 10.0 if trouble == "slow" else 0.0})
            listening = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            listening.daemon_threads = True
            listening.block_on_close = False
            threading.Thread(target=listening.serve_forever, daemon=True).start()
            stack.callback(listening.shutdown)
            bad = f"http://127.0.0.1:{listening.server_port}"
        elif trouble == "gone":
            bad = f"http://127.0.0.1:{free_port()}"
        elif trouble == "locked":
            sync(engine, uri)
            holder = stack.enter_context(closing(sqlite3.connect(store, isolation_level=None)))
            holder.execute("BEGIN EXCLUSIVE")
        follower = follower_of(settings.database_url, bad, settings.logs / "mlflow.log")
        follower.start()
        process = psutil.Process(follower.pid)
        stack.callback(end, process)
        if trouble == "frozen":
            process.suspend()
        elif trouble == "full":
            process.rlimit(psutil.RLIMIT_FSIZE, (50_000, 50_000))
        else:
            until(lambda: asked or trouble in ("gone", "locked"))
        assert supervise(settings, 2, on_tick=lambda _: follower.ensure()) == undisturbed
        follower.stop()
        if trouble not in ("slow", "frozen"):
            until(lambda: follower.pid is None)
            assert (settings.logs / "mlflow.log").read_text().startswith("MLflow at ")
    assert not asked or set(asked) == {"Basic bWU6c2VjcmV0"}
    if store.exists() and trouble == "full":
        store.unlink()
    assert sync(engine, uri) == 24
    assert_agreement(engine, uri, "eatnas/s")
    assert sync(engine, uri) == 0


@pytest.mark.slow
def test_a_follower_is_nice_in_a_session_of_its_own_and_shows_no_password(engine, tmp_path):
    log = tmp_path / "logs" / "mlflow.log"
    follower = follower_of(str(engine.url), f"http://me:secret@127.0.0.1:{free_port()}", log)
    follower.start()
    process = psutil.Process(follower.pid)
    try:
        until(lambda: process.nice() == min(19, psutil.Process().nice() + 10))
        assert os.getsid(process.pid) == process.pid
        until(lambda: log.stat().st_size > 0)
        assert "secret" not in " ".join(process.cmdline())
    finally:
        follower.stop()
        until(lambda: follower.pid is None)
    assert "me:***@127.0.0.1" in log.read_text()
    assert "secret" not in log.read_text()


def test_a_dead_follower_is_started_again_after_half_a_minute_unless_it_was_stopped(engine, tmp_path):
    now = 0.0
    follower = follower_of(str(engine.url), f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "log", lambda: now)
    follower.ensure()
    assert follower.pid is None
    follower.start()
    first = follower.pid
    now = RESTART_SECONDS
    follower.ensure()
    assert follower.pid == first
    os.killpg(first, signal.SIGKILL)
    until(lambda: follower.pid is None)
    now = RESTART_SECONDS - 1
    follower.ensure()
    assert follower.pid is None
    now = RESTART_SECONDS
    follower.ensure()
    second = follower.pid
    assert second not in (None, first)
    os.killpg(second, signal.SIGKILL)
    follower.stop()
    until(lambda: follower.pid is None)
    now = 3 * RESTART_SECONDS
    follower.ensure()
    assert follower.pid is None


@pytest.mark.slow
def test_a_follower_writes_the_last_and_leaves_when_its_parent_is_killed(engine, tmp_path):
    script = """
import sys
from pathlib import Path
from eatnas_daemon.follower import Follower
addresses = {"EATNAS_DB_URL": sys.argv[1], "MLFLOW_TRACKING_URI": sys.argv[2]}
follower = Follower(("eatnas_daemon.mlflow",), addresses, Path(sys.argv[3]))
follower.start()
print(follower.pid, flush=True)
sys.stdin.read()
"""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-c", script, str(engine.url), uri, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        follower = psutil.Process(int(parent.stdout.readline()))
        until(lambda: (tmp_path / "mlflow.db").exists())
        fill(engine)
        parent.kill()
    until(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE)
    assert (tmp_path / "log").read_text() == ""
    assert_agreement(engine, uri)


def test_a_follower_that_cannot_be_started_ends_nothing(engine, tmp_path):
    (tmp_path / "file").touch()
    follower = follower_of(str(engine.url), f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "file" / "log")
    follower.start()
    follower.ensure()
    follower.stop()
    assert follower.pid is None


def test_a_follower_without_a_record_says_so_in_one_line(tmp_path):
    addresses = {"EATNAS_DB_URL": f"sqlite:///{tmp_path / 'none.db'}", "MLFLOW_TRACKING_URI": "sqlite:///unused.db"}
    command = [sys.executable, "-m", "eatnas_daemon.mlflow"]
    done = subprocess.run(
        command, env={**os.environ, **addresses}, input=b"", capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.decode().startswith("no record at")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("failed at postgresql+psycopg://me:se/cr@et@host/db: no", "failed at postgresql+psycopg://me:***@host/db: no"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_passwords_in_addresses_are_struck_out(text, shown):
    assert hide_passwords(text) == shown
