"""Databases with an empty record on a PostgreSQL server, which tests use one after another."""

from __future__ import annotations

from typing import Any, Final

from support.postgres import TEMPLATE, Server

USES: Final = 20
"""The maximum number of tests that use one database. A database grows, because nothing vacuums the deleted rows."""
_FIRST_OID: Final = 16384
"""The lowest id of an object that users created; the server's own objects have lower ids."""
_FILLED: Final = ("eatnas_alembic_version", "eatnas_record")
"""The tables that have rows in an empty record."""
_DEFINITIONS: Final = {
    "pg_class": "oid",
    "pg_attribute": "attrelid",
    "pg_index": "indexrelid",
    "pg_constraint": "oid",
    "pg_proc": "oid",
    "pg_trigger": "oid",
    "pg_type": "oid",
    "pg_statistic": "starelid",
    "pg_db_role_setting": "setdatabase",
    "pg_default_acl": "oid",
}
_DISCONNECT: Final = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class RecordDatabases:
    """Lends a database with an empty record. Deleting the rows of a test is faster than copying the template."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._url, self._uses, self._definition = "", 0, ""
        self._clear = ""

    def lend(self) -> str:
        """Return the URL of a database with an empty record. Only one database is lent at a time."""
        if not self._url:
            self._url, self._uses = self._server.new_database(TEMPLATE), 0
            with self._connect() as connection:
                self._clear = _write_deletion(connection)
                self._definition = _read_definition(connection)
        return self._url

    def take_back(self) -> None:
        """Empty the database. Drop it if a test has changed more than rows, or if `USES` tests have used it."""
        self._uses += 1
        if self._uses == USES or not self._is_cleared():
            url, self._url = self._url, ""
            self._server.drop(url)

    def _is_cleared(self) -> bool:
        """Disconnect all clients and delete the rows. Return whether the database is then in its initial state."""
        import psycopg

        try:
            with self._connect() as connection:
                connection.execute(_DISCONNECT)  # disconnect first, because a client may hold a lock
                if _read_definition(connection) != self._definition:
                    return False
                connection.execute(self._clear)
        except psycopg.Error:  # a test has dropped or renamed a table
            return False
        return True

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True)


def _write_deletion(connection: Any) -> str:
    """Return the statements that delete the rows of all tables and restart the sequences."""
    kinds = {"r": list[str](), "S": list[str]()}
    query = "SELECT relkind::text, relname FROM pg_class WHERE oid >= %s AND relkind = ANY(%s) AND relname <> ALL(%s)"
    for kind, name in connection.execute(query, [_FIRST_OID, list(kinds), list(_FILLED)]):
        kinds[kind].append(name)
    return "; ".join(
        [
            "SET session_replication_role = replica",  # turns off the checks of foreign keys
            *(f"DELETE FROM {name}" for name in kinds["r"]),
            *(f"SELECT setval('{name}', 1, false)" for name in kinds["S"]),
        ]
    )


def _read_definition(connection: Any) -> str:
    """Return the versions of all definitions, and the rows of the tables in `_FILLED`."""
    versions = [
        f"(SELECT string_agg(concat_ws('/', {oid}, xmin), ' ' ORDER BY {oid}, xmin::text) "
        f"FROM {catalog} WHERE {oid} >= {_FIRST_OID})"
        for catalog, oid in _DEFINITIONS.items()
    ]
    rows = [f"(SELECT string_agg(t::text, ' ') FROM {name} AS t)" for name in _FILLED]
    database = "(SELECT concat_ws('/', datacl, datconnlimit) FROM pg_database WHERE datname = current_database())"
    schemas = "(SELECT string_agg(concat_ws('/', oid, xmin), ' ' ORDER BY oid) FROM pg_namespace)"
    parts = ", ".join([*versions, *rows, database, schemas])
    return str(connection.execute(f"SELECT concat_ws('|', {parts})").fetchone())
