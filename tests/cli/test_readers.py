"""Readers without the permission to write can query, list, show, report and back up, and leave no file behind."""

import json
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from eatnas_db.database.engine import open_record, read_connection
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.searches import list_searches
from eatnas_migrations import commands
from support.reader import run_as_reader, without_write_permission

COMMANDS = [
    ["search", "list"],
    ["search", "show", "tiny"],
    ["query", "best", "tiny"],
    ["query", "sql", "SELECT count(*) FROM candidates"],
    ["query", "events", "tiny"],
    ["query", "fingerprint", "tiny"],
    ["candidate", "show", "1"],
    ["daemon", "status"],
    ["db", "current"],
    ["db", "check", "--files"],
    ["db", "backup", "--force", "{out}/backup.db"],
    ["report", "tiny", "--force", "-o", "{out}/report.html"],
]
PROGRAM = """
import sys, json
from eatnas_cli.app import main
home, commands = sys.argv[1], json.loads(sys.argv[2])
for command in commands:
    try:
        main(["--home", home, *command])
    except SystemExit as left:
        print(command, "exited with", left.code or 0, flush=True)
"""


@contextmanager
def no_writer(home):
    with closing(sqlite3.connect(home / "eatnas.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint")
    yield


@contextmanager
def living_writer(home):
    with closing(sqlite3.connect(home / "eatnas.db")) as connection:
        connection.execute("UPDATE eatnas_search SET priority = 7")
        connection.commit()
        yield


def run_commands(home, commands):
    done = run_as_reader(PROGRAM, str(home), json.dumps(commands))
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("writer", [no_writer, pytest.param(living_writer, marks=pytest.mark.slow)])
def test_a_reader_of_files_can_ask_everything(home, tiny, tmp_path, writer):
    out = tmp_path / "out"
    out.mkdir()
    given = [[part.format(out=out) for part in command] for command in COMMANDS]
    with writer(home), without_write_permission(home):
        before = sorted(path.name for path in home.rglob("*"))
        done = run_commands(home, given)
        assert sorted(path.name for path in home.rglob("*")) == before
    assert done.stderr == ""
    assert done.stdout.count("exited with 0") == len(given)
    with read_connection(f"sqlite:///{out / 'backup.db'}") as connection:
        assert [row.name for row in list_searches(connection)] == ["tiny"]


def test_reader_with_write_permission_leaves_no_files(home, tiny):
    (home / "eatnas.db").chmod(0o444)
    before = sorted(path.name for path in home.iterdir())
    done = run_commands(home, COMMANDS[:4])
    assert (done.stderr, done.stdout.count("exited with 0")) == ("", 4)
    assert sorted(path.name for path in home.iterdir()) == before


@pytest.mark.slow
def test_writes_of_a_reader_are_refused_in_one_line(home, tiny, spec):
    changes = [
        ["search", "create", spec(), "--set", "name=other"],
        ["search", "pause", "tiny"],
        ["search", "cancel", "tiny"],
        ["candidate", "cancel", "1"],
        ["daemon", "start"],
        ["db", "upgrade"],
    ]
    with without_write_permission(home):
        done = run_commands(home, changes)
    assert done.stdout.count("exited with 1") == len(changes)
    assert len(done.stderr.splitlines()) == len(changes)
    assert done.stderr.count("cannot be written because") >= 4


def test_a_log_that_a_reader_cannot_recover_is_refused(home, tiny, tmp_path):
    with living_writer(home):
        log = (home / "eatnas.db-wal").read_bytes()
    (home / "eatnas.db-wal").write_bytes(log)
    with without_write_permission(home):
        done = run_commands(home, [["search", "list"]])
    assert "was not closed properly" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_role_with_select_alone_can_ask(postgres, postgres_record_url):
    database = make_url(postgres_record_url).database
    for statement in ("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN"):
        postgres.execute(statement, database)
    postgres.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database)
    url = make_url(postgres_record_url).set(username="reader", password=None).render_as_string(hide_password=False)
    engine = open_record(url)
    with read_transaction(engine) as connection:
        assert not list_searches(connection)
    assert not commands.differs_from_models(engine)
    assert list(list_violations(engine, Path("/nowhere"))) == []
    with pytest.raises(RecordError, match="denies access to this user"):
        commands.upgrade(engine)
    engine.dispose()
    postgres.execute("DROP OWNED BY reader", database)
    postgres.execute("DROP ROLE reader", database)
