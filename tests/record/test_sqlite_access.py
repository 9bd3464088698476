"""A reader without locks never accepts a database file that mixes two states."""

import sqlite3
from contextlib import closing

import pytest

from eatnas_db.database.sqlite_access import UNSHARED, FileChangedError, FileState, ReadingConnection, copy_to_memory


@pytest.fixture
def database(tmp_path):
    file = tmp_path / "a.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    return file


def write(file):
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO t VALUES (2)")
    connection.commit()
    return connection


def read_without_locks(file):
    connection = sqlite3.connect(f"{file.as_uri()}?{UNSHARED}", uri=True, factory=ReadingConnection)
    connection.state_before = FileState.of(file)
    return connection


@pytest.mark.parametrize("leaves", [False, True])
def test_a_writer_that_starts_during_a_read_is_noticed(database, leaves):
    with closing(read_without_locks(database)) as reader:
        reader.execute("SELECT n FROM t").fetchall()
        reader.require_unchanged()
        writer = write(database)
        if leaves:
            writer.close()
        with pytest.raises(FileChangedError, match="try again"):
            reader.require_unchanged()
        writer.close()


def test_a_small_file_is_read_as_a_whole(database):
    state = FileState.of(database)
    with closing(copy_to_memory(database, state)) as copy, closing(write(database)):
        assert copy.execute("SELECT n FROM t").fetchall() == [(1,)]
        copy.require_unchanged()
        with pytest.raises(FileChangedError):
            copy_to_memory(database, state)
