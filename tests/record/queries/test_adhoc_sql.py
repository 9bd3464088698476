"""`query sql`: the user's own SELECT statements."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import update

from eatnas_db import adhoc_sql
from eatnas_db.database.transactions import transaction
from eatnas_db.errors import ConflictError
from eatnas_db.queries.views import VIEWS
from eatnas_db.schema.searches import search
from eatnas_db.settings import Settings
from support.databases import ON_SQLITE
from support.recorded_search import make_record


@pytest.fixture
def settings(engine, tmp_path):
    return Settings(tmp_path, engine.url.render_as_string(hide_password=False))


@pytest.fixture(scope="module")
def sqlite_settings(tmp_path_factory):
    """Return the settings of a record on SQLite that tests only read."""
    made = make_record(tmp_path_factory.mktemp("sqlite"), lambda folder: f"sqlite:///{folder / 'eatnas.db'}")
    yield made.settings
    made.engine.dispose()


def test_every_view_has_the_documented_columns(record):
    page = (Path(__file__).parents[3] / "docs" / "queries.md").read_text()
    for name in VIEWS:
        answer = adhoc_sql.run_query(record.settings, f"SELECT * FROM {name}")
        assert f"| `{name}` | {', '.join(answer.columns)} |" in page


def test_a_select_is_answered(settings, small):
    answer = adhoc_sql.run_query(
        settings,
        "SELECT kernel, count(*) AS n FROM blocks JOIN candidates ON candidates.id = candidate_id "
        "WHERE candidates.search = 'small' AND position = 5 AND joined IS NOT NULL GROUP BY kernel ORDER BY kernel",
    )
    assert answer.columns == ("kernel", "n")
    assert sum(count for _, count in answer.rows) == 12
    some = adhoc_sql.run_query(settings, "SELECT id FROM candidates", limit=5)
    assert (len(some.rows), some.truncated) == (5, True)
    assert adhoc_sql.run_query(settings, "SELECT NULL, 'ä';").rows == ((None, "ä"),)
    assert adhoc_sql.run_query(
        settings, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT max(i) FROM n"
    ).rows == ((9,),)


def test_bytes_are_shown_as_hexadecimal_digits(sqlite_settings):
    assert adhoc_sql.run_query(sqlite_settings, "SELECT x'00ff'").rows == (("00ff",),)


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH '{file}' AS other",
        "VACUUM INTO '{file}'",
        "VACUUM",
        "PRAGMA user_version = 9",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT load_extension('{file}')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT writefile('{file}', 'x')",
        "SELECT readfile('/etc/passwd')",
        "SELECT edit('x')",
        "SELECT \"load_extension\"('{file}')",
        "SELECT * FROM main.eatnas_event",
        "WITH sqlite_master AS (SELECT 1) SELECT * FROM sqlite_master",
        "INSERT INTO eatnas_record VALUES (2, 'x', 0) RETURNING id",
        "UPDATE eatnas_candidate SET fitness = 1 RETURNING id",
        "WITH a AS (SELECT 1) DELETE FROM eatnas_event RETURNING id",
        "REPLACE INTO eatnas_record VALUES (1, 'x', 0)",
        "CREATE TABLE mine (a)",
        "CREATE TEMP TABLE mine (a)",
        "CREATE TEMP TRIGGER t BEFORE INSERT ON eatnas_event BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE mine USING fts5(a)",
        "DROP VIEW candidates",
        "DROP TABLE eatnas_event",
        "ALTER TABLE eatnas_event ADD COLUMN mine",
        "REINDEX",
        "ANALYZE",
        "BEGIN EXCLUSIVE",
        "SAVEPOINT s",
        "DETACH main",
    ],
)
def test_sql_can_change_nothing_on_sqlite(sqlite_settings, tmp_path, statement):
    file = tmp_path / "other.db"

    def read_files():
        return {path.name: path.read_bytes() for path in sqlite_settings.home.iterdir() if path.suffix != ".db-shm"}

    before = read_files()
    with pytest.raises(ConflictError, match="only a single SELECT"):
        adhoc_sql.run_query(sqlite_settings, statement.format(file=file))
    assert read_files() == before
    assert not file.exists()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 1; SELECT 2", "only a single SELECT"),
        ("SELECT 1; DROP TABLE eatnas_event", "only a single SELECT"),
        ("", "the query is empty"),
        ("-- nothing", "the query is empty"),
        ("SELEC", "the query is invalid"),
        ("SELECT \0", "the query is invalid"),
        ("SELECT nought FROM candidates", "no such column: nought"),
        ("SELECT * FROM candidate", "the views are searches, candidates"),
        ("SELECT * FROM eatnas_event", "the views are searches, candidates"),
        ("SELECT last_insert_rowid()", "function last_insert_rowid is not one of the allowed functions"),
        ("SELECT '\udce9'", "contains characters that cannot be stored as text"),
        ("SELECT " + "(" * 9999 + "1" + ")" * 9999, "nested too deeply"),
        ("SELECT randomblob(1000000000)", "select a part of it"),
    ],
)
def test_an_invalid_query_is_explained(sqlite_settings, query, message):
    with pytest.raises(ConflictError, match=message):
        adhoc_sql.run_query(sqlite_settings, query)


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
        "SELECT count(*) FROM events a, events b, events c, events d, events e, events f, events g, events h",
    ],
)
def test_a_query_is_stopped_after_its_timeout(record, query):
    with pytest.raises(ConflictError, match=r"took longer than 0\.2 seconds"):
        adhoc_sql.run_query(record.settings, query, seconds=0.2)


@ON_SQLITE
def test_a_query_neither_waits_for_a_writer_nor_blocks_one(settings, small, engine):
    with transaction(engine) as writer:
        writer.execute(update(search).values(priority=7))
        assert adhoc_sql.run_query(settings, "SELECT count(*) FROM searches").rows == ((1,),)
    with sqlite3.connect(settings.database_file, timeout=0) as other:
        assert other.execute("SELECT priority FROM eatnas_search").fetchone() == (7,)
    other.close()
