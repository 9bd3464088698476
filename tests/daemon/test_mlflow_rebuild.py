"""A damaged MLflow store is kept under another name."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from eatnas_daemon.mlflow.rebuild import move_store_aside
from eatnas_db.errors import ConflictError
from support.mlflow_stores import make_record


@pytest.fixture
def engine(tmp_path):
    engine = make_record(tmp_path / "eatnas.db")
    yield engine
    engine.dispose()


def kill_while_writing(file, journal_mode):
    """Leave behind a database of 1,000 rows, as a writer does that is killed in its second transaction."""
    program = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, text)")
rows = [(n, "x" * 400) for n in range(1000)]
connection.execute("BEGIN")
connection.executemany("INSERT INTO runs VALUES (?, ?)", rows)
connection.execute("COMMIT")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE runs SET text = 'torn'")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program, str(file), journal_mode], check=True)


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_torn_store_that_is_kept_can_be_recovered(engine, tmp_path, journal_mode):
    file = tmp_path / "mlflow.db"
    kill_while_writing(file, journal_mode)
    uri = f"sqlite:///{file}"
    kept = move_store_aside(engine, uri, home_uri=uri, confirmed=False)
    endings = {"DELETE": ["", "-journal"], "WAL": ["", "-shm", "-wal"]}[journal_mode]
    assert sorted(path.name for path in kept) == [f"mlflow.db.old-1{ending}" for ending in endings]
    with closing(sqlite3.connect(tmp_path / "mlflow.db.old-1")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*), min(text) FROM runs").fetchone() == (1000, "x" * 400)


def test_new_store_does_not_get_an_old_journal(engine, tmp_path):
    (tmp_path / "mlflow.db.old-1-journal").write_bytes(b"of a store that was deleted")
    (tmp_path / "mlflow.db").touch()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert move_store_aside(engine, uri, home_uri=uri, confirmed=False) == [tmp_path / "mlflow.db.old-2"]


def test_store_of_others_is_left_alone(engine, tmp_path):
    file, home_uri = tmp_path / "shared" / "mlflow.db", f"sqlite:///{tmp_path / 'mlflow.db'}"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ConflictError, match=r"is not the MLflow store of this home.*add --yes"):
        move_store_aside(engine, f"sqlite:///{file}", home_uri=home_uri, confirmed=False)
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]
    kept = move_store_aside(engine, f"sqlite:///{file}", home_uri=home_uri, confirmed=True)
    assert [path.name for path in kept] == ["mlflow.db.old-1"]
