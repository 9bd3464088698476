"""Tests on PostgreSQL use the same databases one after another."""

import psycopg
import pytest

from support.postgres_records import USES, RecordDatabases

ADD_HOST = "INSERT INTO eatnas_host (name, seen_at) VALUES ('here', 0) RETURNING id"


@pytest.fixture
def databases(postgres):
    databases = RecordDatabases(postgres)
    yield databases
    postgres.drop(databases.lend())


def execute(url, statement):
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone() if cursor.description else None


def test_database_is_lent_again_without_its_rows(databases):
    url = databases.lend()
    for _ in range(2):
        assert execute(url, ADD_HOST) == (1,)
        databases.take_back()
        assert databases.lend() == url


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE eatnas_host ADD COLUMN mine integer",
        "ALTER TABLE eatnas_host ALTER COLUMN name DROP NOT NULL",
        "DROP VIEW eatnas_view_epochs",
        "CREATE INDEX ON eatnas_host (name)",
        "REVOKE CREATE ON SCHEMA public FROM pg_database_owner",
        "UPDATE eatnas_record SET created_at = 0",
        "ANALYZE eatnas_record",
        "UPDATE pg_index SET indisvalid = false WHERE indrelid = 'eatnas_host'::regclass",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER TABLE eatnas_record RENAME TO mine",
    ],
)
def test_database_is_dropped_after_any_other_change(databases, statement):
    url = databases.lend()
    execute(url, statement)
    databases.take_back()
    assert databases.lend() != url


def test_database_is_dropped_after_many_uses(databases):
    url = databases.lend()
    for _ in range(USES):
        assert databases.lend() == url
        databases.take_back()
    assert databases.lend() != url


@pytest.mark.parametrize("table", ["eatnas_host", "eatnas_record"])
def test_clients_that_a_test_leaves_are_disconnected(databases, table):
    with psycopg.connect(databases.lend().replace("+psycopg", "")) as left:
        left.execute(f"LOCK TABLE {table}")
        databases.take_back()
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")
