"""The MLflow store shows the content of the record, and contains each run only once."""

import json
import os
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import select

from eatnas_daemon.daemon_lock import hold_daemon_lock
from eatnas_daemon.mlflow.client import connect, log_in_batches, make_params
from eatnas_daemon.mlflow.search_runs import STEP_METRICS
from eatnas_daemon.mlflow.sync import MlflowSync, list_experiment_ids, list_views, sync
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import CandidateState, DesiredState
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.schema.candidates import architecture, candidate
from eatnas_db.schema.searches import step
from eatnas_db.searches.control import set_desired_state
from eatnas_db.searches.create import create_search
from eatnas_db.searches.delete import delete_search
from eatnas_db.searches.retry import retry_candidates
from eatnas_db.transitions import lease_next
from support.mlflow_stores import (
    SPEC,
    assert_store_matches,
    copy_empty_store,
    finish_fourth,
    free_port,
    get_search_run,
    list_candidate_runs,
    make_record,
    mlflow_server,
    record_epoch,
    record_score,
    statuses_by_birth,
    sync_runs,
    train_four,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def engine(tmp_path):
    engine = make_record(tmp_path / "eatnas.db")
    yield engine
    engine.dispose()


@pytest.fixture
def uri(tmp_path, tmp_path_factory):
    copy_empty_store(tmp_path_factory, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


class CountingClient:
    """MLflow's client, which also remembers the names of the methods that were called."""

    def __init__(self, client):
        self.client, self.calls, self.tracking_uri = client, [], client.tracking_uri

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append(name)
            return getattr(self.client, name)(*arguments, **options)

        return call

    def take_calls(self):
        calls, self.calls = self.calls, []
        return calls


@pytest.mark.slow
def test_runs_contain_statuses_times_and_metrics_of_the_record(engine, uri):
    train_four(engine)
    assert sync_runs(engine, uri) == 4
    client, runs = assert_store_matches(engine, uri)
    assert [runs[birth].info.status for birth in range(4)] == ["FINISHED", "FINISHED", "FAILED", "KILLED"]
    assert "mlflow.parentRunId" in runs[2].data.tags
    first = runs[0].info
    assert (first.run_name, first.start_time, first.end_time) == ("birth 0", 1_000_000, 1_030_000)
    history = client.get_metric_history(first.run_id, "train_loss")
    assert [(m.step, m.timestamp, m.value) for m in history] == [(0, 1_010_250, 2.0), (1, 1_020_000, 1.0)]
    for metric, value in (("worker_memory_usage_megabytes", 50.0), ("worker_utilization_percentage", 75.0)):
        history = client.get_metric_history(first.run_id, f"system/{metric}")
        assert [(m.step, m.value) for m in history] == [(0, value), (1, value)]


@pytest.mark.slow
def test_second_sync_writes_only_new_data(engine, uri):
    token = train_four(engine)
    assert [sync_runs(engine, uri), sync_runs(engine, uri)] == [4, 0]
    finish_fourth(engine, token)
    assert sync_runs(engine, uri) == 1
    client, runs = assert_store_matches(engine, uri)
    assert runs[3].info.status == "FINISHED"
    assert all(a.step < b.step for a, b in pairwise(client.get_metric_history(runs[3].info.run_id, "val_loss")))


@pytest.mark.slow
def test_each_change_costs_only_its_own_requests(engine, uri, tmp_path):
    token = train_four(engine)
    client = CountingClient(connect(uri))
    mlflow_sync = MlflowSync(engine, client)
    with hold_daemon_lock(tmp_path / "eatnas.db.lock"):  # imitates a supervisor
        assert mlflow_sync.sync_changes() == 4
        client.take_calls()
        assert (mlflow_sync.sync_changes(), client.take_calls()) == (0, [])
        with transaction(engine) as connection:
            record_epoch(connection, token, 1, 4020.0)
        assert (mlflow_sync.sync_changes(), client.take_calls()) == (1, ["log_batch"])
        assert statuses_by_birth(client.client)[3] == "RUNNING"
        with transaction(engine) as connection:
            record_score(connection, token, 4030.0)
        # The second batch belongs to the run of the search, which gets another step.
        calls = ["log_batch", "set_terminated", "log_batch"]
        assert (mlflow_sync.sync_changes(), client.take_calls()) == (1, calls)
        assert (mlflow_sync.sync_changes(), client.take_calls()) == (0, [])
        with transaction(engine) as connection:
            failed = select(candidate.c.id).where(candidate.c.state == CandidateState.FAILED)
            retry_candidates(connection, [connection.execute(failed).scalar_one()], 5000.0)
        # The search with the retries gets its own experiment and run.
        assert mlflow_sync.sync_changes() == 0
        assert client.take_calls().count("create_run") == 1
        assert (mlflow_sync.sync_changes(), client.take_calls()) == (0, [])
        assert statuses_by_birth(client.client)[2] == "FAILED"


@pytest.mark.slow
def test_leased_candidates_are_running_only_while_a_supervisor_lives(engine, uri, tmp_path):
    def statuses():
        return statuses_by_birth(connect(uri))[3], get_search_run(uri)[1].info.status

    train_four(engine)
    with hold_daemon_lock(tmp_path / "eatnas.db.lock"):
        sync_runs(engine, uri)
        assert statuses() == ("RUNNING", "RUNNING")
        # Sync like the follower of a supervisor that is about to exit.
        MlflowSync(engine, connect(uri)).sync_changes(stopping_pid=os.getpid())
        assert statuses() == ("KILLED", "SCHEDULED")
        sync_runs(engine, uri)
        assert statuses()[0] == "RUNNING"
    with transaction(engine) as connection:
        set_desired_state(connection, "small", DesiredState.CANCELLED, 5000.0)
    sync_runs(engine, uri)
    assert statuses() == ("KILLED", "KILLED")


@pytest.mark.slow
def test_search_run_has_metrics_links_and_params(engine, uri):
    train_four(engine)
    sync_runs(engine, uri)
    client, run = get_search_run(uri)
    with read_transaction(engine) as connection:
        steps = connection.execute(select(step).order_by(step.c.number)).all()
    for name in STEP_METRICS:
        history = client.get_metric_history(run.info.run_id, name)
        expected = [(row.number, round(1000 * row.at), getattr(row, name)) for row in steps]
        assert [(m.step, m.timestamp, m.value) for m in history] == [row for row in expected if row[2] is not None]
    assert run.data.params["training.epochs"] == "2"
    best = run.data.tags["eatnas.best_run"]
    assert client.get_run(best).data.tags["eatnas.birth"] == "0"
    assert f"/runs/{best})" in run.data.tags["mlflow.note.content"]
    experiment = client.get_experiment(run.info.experiment_id)
    assert f"/runs/{run.info.run_id})" in experiment.tags["mlflow.note.content"]


@pytest.mark.slow
def test_pictures_are_rendered_once_for_each_state_of_a_search(engine, uri, tmp_path):
    def report_time():
        return (Path(client.download_artifacts(run.info.run_id, "")) / "report.html").stat().st_mtime_ns

    train_four(engine)
    assert sync(engine, uri) == 4
    client, run = get_search_run(uri)
    pictures = sorted(file.path for file in client.list_artifacts(run.info.run_id))
    assert pictures == ["lineage.png", "pareto.png", "quality-over-compute.png", "quality.png", "report.html"]
    assert run.info.artifact_uri.startswith((tmp_path / "mlflow-artifacts").as_uri())
    before = report_time()
    assert sync(engine, uri) == 0
    assert report_time() == before


@pytest.mark.slow
def test_candidate_runs_hold_their_architecture_as_json_and_svg(engine, uri):
    train_four(engine)
    sync_runs(engine, uri)
    with read_transaction(engine) as connection:
        query = select(candidate.c.id, architecture).join(architecture)
        architectures = {row.id: row for row in connection.execute(query)}
    client, _, runs = list_candidate_runs(uri)
    for run in runs:
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        description = json.loads((folder / "architecture.json").read_text())
        row = architectures[int(run.data.tags["eatnas.candidate"].split("/")[1])]
        assert (description["code"], description["digest"]) == (row.genotype, row.digest)
        assert len(description["blocks"]) == 7
        assert ElementTree.parse(folder / "architecture.svg").getroot().tag.endswith("svg")


@pytest.mark.slow
def test_lost_store_is_written_again(engine, uri, tmp_path):
    train_four(engine)
    sync_runs(engine, uri)
    another = f"sqlite:///{tmp_path / 'another.db'}"
    assert sync_runs(engine, another) == 4
    assert_store_matches(engine, another)


@pytest.mark.slow
def test_rejected_files_are_logged_once_and_runs_are_written(engine, uri, tmp_path, capfd):
    train_four(engine)
    (tmp_path / "mlflow-artifacts").touch()
    assert sync_runs(engine, uri) == 4
    assert_store_matches(engine, uri)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("MLflow stores runs, but cannot store files: ")
    (tmp_path / "mlflow-artifacts").unlink()
    assert (sync_runs(engine, uri), sync_runs(engine, uri)) == (4, 0)
    client, _, runs = list_candidate_runs(uri)
    assert [len(client.list_artifacts(run.info.run_id)) for run in runs] == [2, 2, 2, 2]


@pytest.mark.slow
def test_alternating_writers_create_each_run_once(engine, uri):
    mlflow_sync = MlflowSync(engine, connect(uri))
    assert mlflow_sync.sync_changes() == 0
    train_four(engine)
    assert sync_runs(engine, uri) == 4
    mlflow_sync.sync_changes()
    assert_store_matches(engine, uri)
    assert sync_runs(engine, uri) == 0


@pytest.mark.slow
def test_equal_search_names_of_two_records_get_separate_experiments(engine, uri, tmp_path):
    other = make_record(tmp_path / "other.db")
    train_four(engine)
    train_four(other)
    with read_transaction(other) as connection:
        uuid = get_record_uuid(connection)
    for written in (4, 0):
        assert [sync_runs(engine, uri), sync_runs(other, uri)] == [written, written]
    assert_store_matches(engine, uri)
    assert_store_matches(other, uri, f"eatnas/small ({uuid[:8]})")
    other.dispose()


@pytest.mark.slow
def test_new_search_adopts_no_runs_of_a_deleted_one(engine, uri):
    mlflow_sync = MlflowSync(engine, connect(uri))  # imitates a follower that keeps running
    train_four(engine)
    mlflow_sync.sync_changes()
    (old,) = list_experiment_ids(engine, uri).values()
    with transaction(engine) as connection:
        set_desired_state(connection, "small", DesiredState.CANCELLED, 5000.0)
        delete_search(connection, "small", 5001.0)
        spec = parse_spec(SPEC)
        new_id = create_search(connection, spec, task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=5002.0)
        leased = lease_next(connection, new_id, host_id=1, worker_id=1, now=5003.0)
    assert mlflow_sync.sync_changes() == 1
    assert sync_runs(engine, uri) == 0
    ((name, new),) = list_experiment_ids(engine, uri).items()
    assert (name, new != old) == ("small", True)
    client = connect(uri)
    runs = client.search_runs([new])
    (run,) = (run for run in runs if "eatnas.candidate" in run.data.tags)
    assert len(runs) == 2
    assert run.data.tags["eatnas.candidate"].endswith(f"/{leased.token.candidate}")
    assert len(client.search_runs([old])) == 5


@pytest.mark.slow
def test_damaged_search_does_not_stop_the_runs_of_others(engine, uri):
    token = train_four(engine)
    with transaction(engine) as connection:
        spec = parse_spec(SPEC, {"name": "damaged"})
        damaged = create_search(connection, spec, task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=5002.0)
        assert lease_next(connection, damaged, host_id=1, worker_id=1, now=5003.0)
    assert sync_runs(engine, uri) == 5
    finish_fourth(engine, token)
    with transaction(engine) as connection:
        connection.exec_driver_sql(f"UPDATE eatnas_search SET spec = '{{' WHERE id = {damaged}")
    assert sync_runs(engine, uri) == 1
    assert list(list_views(engine, uri, "http://localhost")) == ["small"]


@pytest.mark.slow
def test_params_of_any_name_are_written(uri):
    client = connect(uri)
    run_id = client.create_run(client.create_experiment("many options")).info.run_id
    log_in_batches(client, run_id, [], params=make_params({"options./lr*": 0.1, "options." + "n" * 300: 1}))
    assert client.get_run(run_id).data.params == {"options._lr_": "0.1", "options." + "n" * 242: "1"}


@pytest.mark.slow
def test_deleted_experiment_is_restored(engine, uri):
    train_four(engine)
    sync_runs(engine, uri)
    client, experiment, _ = list_candidate_runs(uri)
    client.delete_experiment(experiment.experiment_id)
    sync_runs(engine, uri)
    assert_store_matches(engine, uri)


@pytest.mark.slow
def test_real_server_gets_each_run_once_over_http(engine, tmp_path):
    token = train_four(engine)
    with mlflow_server(tmp_path, free_port()) as uri:
        assert sync_runs(engine, uri) == 4
        assert_store_matches(engine, uri)
        assert sync_runs(engine, uri) == 0
        finish_fourth(engine, token)
        assert sync_runs(engine, uri) == 1
        assert_store_matches(engine, uri)
