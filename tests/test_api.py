"""The Python API for notebooks works, and so do the examples in its documentation."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from sqlalchemy import insert

from eatnas_db import api, provenance, transitions
from eatnas_db.database.engine import create_engine_for
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import ConflictError, EatnasError, NotFoundError, RecordError
from eatnas_db.notebook_rows import SHOWN_ROWS
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_migrations import commands

PAGE = Path(__file__).parents[1] / "docs" / "python-api.md"
SPEC = {"name": "small", "space": "eatnas-tiny", "data": {"name": "digits"}, "reevaluation": {"top": 0}}
SIZES = {"evolution.population": 4, "evolution.tournament": 2, "evolution.lag": 3, "budget.candidates": 30}
PROVENANCE = provenance.Provenance("p", {}, "data", {}, "cpu", "none")
METHODS = ["best", "lineage", "population", "quality", "pareto", "primitives", "mutations", "events"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a home with one finished search, whose scores are computed without training."""
    folder = tmp_path_factory.mktemp("home")
    engine = create_engine_for(f"sqlite:///{folder / 'eatnas.db'}")
    commands.upgrade(engine)
    with transaction(engine) as connection:
        connection.execute(insert(host).values(id=1, name="h", seen_at=0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="u", kind="cpu", name="d"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=0))
        search_id = create_search(
            connection, parse_spec(SPEC, SIZES), task=Task(8, 1, 10), data_digest="d", slots=1, now=0.0
        )
        while leased := transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=1.0):
            fitness = leased.token.candidate / 100
            transitions.record_score(
                connection,
                leased.token,
                fitness=fitness,
                metrics={"val_accuracy": fitness},
                seed=1,
                provenance=PROVENANCE,
                device_seconds=1.0,
                now=2.0,
            )
            advance_search(connection, lock_search(connection, search_id), 3.0)
    engine.dispose()
    return folder


@pytest.fixture
def record(home):
    return api.open(home)


@pytest.fixture
def search(record):
    return record.search("small")


def test_record_is_opened_by_home_or_url(home, tmp_path):
    by_home, by_url = api.open(str(home)), api.open(f"sqlite:///{home / 'eatnas.db'}")
    assert by_home.searches() == by_url.searches()
    with pytest.raises(RecordError, match="run `eatnas-db init` to create one"):
        api.open(tmp_path)
    with pytest.raises(NotFoundError, match="the newest searches are: small"):
        by_home.search("smal")


@pytest.mark.parametrize("method", METHODS)
def test_rows_convert_to_a_data_frame(search, method):
    rows = getattr(search, method)()
    assert rows
    assert isinstance(rows, tuple)
    assert all(is_dataclass(row) and row.__dataclass_params__.frozen for row in rows)
    frame = rows.frame()
    assert list(frame.columns) == list(rows[0].__dataclass_fields__)
    assert len(frame) == len(rows)
    assert rows._repr_html_().count("<tr>") == min(len(rows), SHOWN_ROWS) + 1


def test_empty_rows_keep_their_columns(search):
    assert search.failures() == ()
    assert "failure" in search.failures().frame().columns


def test_search_with_one_objective_has_no_front(search):
    rows = search.front()
    assert len(rows) == 0
    assert "values" in rows.frame().columns


def test_methods_return_single_values(record, search):
    assert search.status == "finished"
    assert (search.progress().scored, search.utilisation().device_seconds) == (30, 30.0)
    assert re.fullmatch("[0-9a-f]{64}", search.fingerprint())
    best = search.best(1)[0]
    assert record.candidate(best.id).code == best.code
    assert [entry.id for entry in record.descendants(best.id)] == [best.id]
    assert search.lineage(1)[0].id == 1
    assert record.sql("SELECT count(*) AS n FROM candidates").frame()["n"].tolist() == [30]
    assert record.compare("small", levels=[0.1]).frame()["ratio"].tolist() == [1.0]
    with pytest.raises(ConflictError, match="only a single SELECT"):
        record.sql("DELETE FROM eatnas_event")


def test_html_is_escaped(record, search):
    shown = record.sql("SELECT '<script>' AS \"<b>\"")._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "&lt;b&gt;" in shown
    assert "<h4>small</h4>" in search._repr_html_()
    assert "finished" in record._repr_html_()
    assert (repr(search), "eatnas.db" in repr(record)) == ("Search('small')", True)


@pytest.mark.slow
def test_invalid_spec_raises_an_error_of_one_line(record):
    with pytest.raises(EatnasError, match="did you mean") as raised:
        record.create({**SPEC, "name": "other", "spaec": "x"})
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_concurrent_creators_get_their_own_search(tmp_path):
    engine = create_engine_for(f"sqlite:///{tmp_path / 'eatnas.db'}")
    commands.upgrade(engine)
    engine.dispose()
    record = api.open(tmp_path)
    names = ["first", "second"]
    with ThreadPoolExecutor(len(names)) as pool:
        created = list(pool.map(lambda name: record.create({**SPEC, "name": name}).name, names))
    assert created == names
    assert sorted(search.name for search in record.searches()) == names


def test_import_loads_no_optional_modules():
    code = "import sys, eatnas_db.api; assert not {'pandas', 'alembic', 'pydantic', 'ruamel.yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("without_mlflow")
def test_examples_of_the_page_run(tmp_path, capfd):
    engine = create_engine_for(f"sqlite:///{tmp_path / 'eatnas.db'}")
    commands.upgrade(engine)
    engine.dispose()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block.replace('"home"', repr(str(tmp_path))), names)
    assert names["ending"] == "finished"
    assert "tiny  4/4  best " in capfd.readouterr().out
    assert len(names["frame"]) == 3
    assert names["mean_at_the_end"] > 0
    assert names["kernels"]["n"].sum() == 4
    assert "the newest searches are: tiny" in names["message"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_mlflow")
def test_interrupted_run_continues_later(tmp_path):
    engine = create_engine_for(f"sqlite:///{tmp_path / 'eatnas.db'}")
    commands.upgrade(engine)
    engine.dispose()
    data = {"name": "digits", "train_images": 64, "validation_images": 64}
    training = {"epochs": 3, "batch_size": 8}
    spec = {**SPEC, "data": data, "training": training, "budget": {"candidates": 6}}
    search = api.open(tmp_path).create({**spec, "evolution": {"population": 2, "tournament": 2}})

    def interrupt():
        while search.progress().leased == 0:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert search.run(slots=1) == "interrupted"
    thread.join()
    assert search.run(slots=1) == "finished"
