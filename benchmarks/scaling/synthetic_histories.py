"""Create databases with long synthetic histories on SQLite and PostgreSQL, and keep them in a folder.

A synthetic history has the same fingerprint as a real history. `check_synthetic_history` checks this for a short
history.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Boolean, Table
from sqlalchemy.schema import CreateTable

from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import list_searches
from eatnas_db.schema.metadata import metadata
from eatnas_migrations import commands
from scaling.candidates import PROVENANCE, SPEC, new_record, run_candidate
from scaling.postgres_server import PostgresServer
from scaling.synthetic_evolution import COLUMNS, Rows, SyntheticEvolution

SPARE_CANDIDATES: Final = 100_000
"""The number of candidates that the budget of a search permits in addition to its history, for the measurements."""
PROGRESS_CANDIDATES: Final = 100_000


class SyntheticHistories:
    """The histories in a folder, created when they are first needed."""

    def __init__(self, folder: Path) -> None:
        # A change to the tables or the spec needs new histories.
        spec = json.dumps(parse_spec(SPEC).model_dump(mode="json"), sort_keys=True)
        tables = "".join(str(CreateTable(table)) for table in metadata.sorted_tables)
        self.folder = folder / hashlib.sha256((spec + tables).encode()).hexdigest()[:8]
        self.folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # if root starts the server, it runs as another user
        self._server: PostgresServer | None = None

    @property
    def server(self) -> PostgresServer:
        """Return the server; start it at the first use."""
        if self._server is None:
            self._server = PostgresServer(self.folder / "postgresql")
        return self._server

    def url(self, kind: str, count: int) -> str:
        """Return the URL of a history, which must not be changed."""
        if kind == "sqlite":
            return f"sqlite:///{self._sqlite_file(count)}"
        return self.server.url(self._postgresql_database(count))

    def copy(self, kind: str, count: int, name: str) -> str:
        """Return the URL of a fresh copy of a history, which may be changed."""
        self.drop(kind, count, name)
        if kind == "sqlite":
            target = self.folder / f"{name}_{count}.db"
            shutil.copy(self._sqlite_file(count), target)
            return f"sqlite:///{target}"
        return self.server.create(f"{name}_{count}", self._postgresql_database(count))

    def drop(self, kind: str, count: int, name: str) -> None:
        """Remove a copy."""
        if kind == "sqlite":
            for file in self.folder.glob(f"{name}_{count}.db*"):
                file.unlink()
        else:
            self.server.drop(f"{name}_{count}")

    def _sqlite_file(self, count: int) -> Path:
        file = self.folder / f"{count}.db"
        if not file.exists():
            started = time.perf_counter()
            fill_sqlite(file, count)
            print(f"filled SQLite with {count:,} candidates in {time.perf_counter() - started:.0f} s", flush=True)
        return file

    def _postgresql_database(self, count: int) -> str:
        name = f"history_{count}"
        if not self.server.has(name):
            file = self._sqlite_file(count)
            started = time.perf_counter()
            fill_postgresql(self.server, name, file)
            print(f"filled PostgreSQL with {count:,} candidates in {time.perf_counter() - started:.0f} s", flush=True)
        return name


def fill_sqlite(file: Path, count: int) -> None:
    """Write a history of `count` candidates to a file. The file appears when it is complete."""
    partial = file.with_suffix(".partial")
    for old in partial.parent.glob(f"{partial.name}*"):
        old.unlink()
    engine = new_record(f"sqlite:///{partial}", count + SPARE_CANDIDATES)
    with read_transaction(engine) as connection:
        (search,) = list_searches(connection)
    engine.dispose()
    evolution = SyntheticEvolution(search)
    started = time.perf_counter()
    with sqlite3.connect(partial, isolation_level=None) as connection:
        for pragma in ("synchronous = OFF", "foreign_keys = OFF", "cache_size = -400000", "journal_mode = WAL"):
            connection.execute(f"PRAGMA {pragma}")
        for name in COLUMNS:
            connection.execute(f"DELETE FROM eatnas_{name}")
        connection.execute(
            "INSERT INTO eatnas_provenance VALUES (1, ?, '{}', ?, '{}', ?, ?, '{}')",
            (PROVENANCE.digest, PROVENANCE.data_digest, PROVENANCE.device, PROVENANCE.cpu_capability),
        )
        for rows in evolution.run(count):
            connection.execute("BEGIN")
            _insert(connection, rows)
            counters = (evolution.born, evolution.settled, evolution.settled, evolution.settled)
            update = "UPDATE eatnas_search SET born = ?, settled = ?, scored = ?, device_seconds = ?"
            connection.execute(update, counters)
            connection.execute("COMMIT")
            if evolution.settled % PROGRESS_CANDIDATES == 0:
                print(f"  {evolution.settled:,} of {count:,} after {time.perf_counter() - started:.0f} s", flush=True)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    partial.rename(file)


def _insert(connection: sqlite3.Connection, rows: Rows) -> None:
    for name, values in rows.tables.items():
        if values:
            columns = ", ".join(f'"{column}"' for column in COLUMNS[name].split())
            marks = ", ".join("?" * len(values[0]))
            connection.executemany(f"INSERT INTO eatnas_{name} ({columns}) VALUES ({marks})", values)
    connection.executemany('UPDATE eatnas_candidate SET "left" = ? WHERE id = ?', rows.removed)


def fill_postgresql(server: PostgresServer, name: str, file: Path) -> None:
    """Copy a history from an SQLite file into a database of a server. The database appears when it is complete."""
    import psycopg

    partial = f"{name}_partial"
    engine = create_engine_for(server.create(partial))
    commands.upgrade(engine)
    engine.dispose()
    with (
        sqlite3.connect(f"file:{file}?immutable=1", uri=True) as source,
        psycopg.connect(server.driver_url(partial)) as target,
    ):
        # The rows already satisfy the constraints; checking every foreign key again takes hours.
        target.execute("SET session_replication_role = replica")
        target.execute("SET synchronous_commit = off")
        target.execute("DELETE FROM eatnas_record")
        for table in metadata.sorted_tables:
            _copy_table(table, source, target)
    server.execute("VACUUM ANALYZE", partial)
    server.execute(f"ALTER DATABASE {partial} RENAME TO {name}")


def _copy_table(table: Table, source: sqlite3.Connection, target: Any) -> None:
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    booleans = [number for number, column in enumerate(table.columns) if isinstance(column.type, Boolean)]
    with target.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in source.execute(f"SELECT {columns} FROM {table.name}"):
            values = list(row)
            for number in booleans:
                values[number] = bool(values[number])
            copy.write_row(values)
    column = table.autoincrement_column
    if column is not None:
        target.execute(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'), "
            f"coalesce(max({column.name}), 1), max({column.name}) IS NOT NULL) FROM {table.name}"
        )


def check_synthetic_history(count: int = 300) -> None:
    """Raise `AssertionError` if a synthetic history differs from a history that the real code has written."""
    with tempfile.TemporaryDirectory() as folder:
        real = new_record(f"sqlite:///{folder}/real.db", count + SPARE_CANDIDATES)
        for _ in range(count):
            with transaction(real) as connection:
                run_candidate(connection)
        fill_sqlite(Path(folder) / "synthetic.db", count)
        synthetic = open_record(f"sqlite:///{folder}/synthetic.db")
        fingerprints = []
        for engine in (real, synthetic):
            with read_transaction(engine) as connection:
                fingerprints.append(get_fingerprint(connection, 1))
        assert fingerprints[0] == fingerprints[1], fingerprints
        with transaction(synthetic) as connection:
            run_candidate(connection)  # the search can continue
