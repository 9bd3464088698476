"""A record moved from one database into another, of either kind: all of it, and compared row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, delete, func, insert, select
from sqlalchemy.exc import DataError

from eatnas_db.database.dialects import describe_location, reset_id_sequence
from eatnas_db.database.locks import list_connected_hosts, lock_schema
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.record import record

BATCH_ROWS: Final = 1000
_MODULUS: Final = 1 << 256


@dataclass(frozen=True, slots=True)
class TableContents:
    """What is in a table: how many rows, and the sum of their hashes, which does not depend on their order."""

    table: str
    rows: int
    sha256: str


def copy_record(
    source: Engine, target: Engine, tell: Callable[[str, int, int], None] = lambda table, done, rows: None
) -> list[TableContents]:
    """Copy a record into an empty one, in one transaction; what was copied, read again from the target.

    `tell` hears of each table how many of how many rows are there. Raises `ConflictError` where the target holds
    anything, `RecordError` where it does not read as the source does; then nothing was changed.
    """
    with read_transaction(source) as old, transaction(target) as new:
        lock_schema(new)
        _require_empty(new, describe_location(target))
        new.execute(delete(record))
        contents = [_copy(table, old, new, tell) for table in metadata.sorted_tables]
        for table in metadata.sorted_tables:
            reset_id_sequence(new, table)
    return contents


def _require_empty(connection: Connection, place: str) -> None:
    if list_connected_hosts(connection):
        raise ConflictError(f"daemons work on {place}; stop them first")
    for table in metadata.sorted_tables:
        if table is not record and connection.execute(select(1).select_from(table).limit(1)).first() is not None:
            raise ConflictError(f"{place} holds a record that is not empty: copy into a fresh database")


def _copy(table: Table, old: Connection, new: Connection, tell: Callable[[str, int, int], None]) -> TableContents:
    rows = old.execute(select(func.count()).select_from(table)).scalar_one()
    done = 0
    total = 0
    for piece in _pieces(old, table):
        try:
            new.execute(insert(table), [dict(row._mapping) for row in piece])
        except DataError as error:
            raise RecordError(f"a row of {table.name} does not fit there ({error.orig}); nothing was changed") from None
        total = _sum(total, piece)
        done += len(piece)
        tell(table.name, done, rows)
    written = _contents(new, table)
    if written != TableContents(table.name, done, _hex(total)):
        raise RecordError(f"{table.name} does not read as it was written; nothing was changed")
    return written


def _contents(connection: Connection, table: Table) -> TableContents:
    rows = total = 0
    for piece in _pieces(connection, table):
        rows, total = rows + len(piece), _sum(total, piece)
    return TableContents(table.name, rows, _hex(total))


def _pieces(connection: Connection, table: Table) -> Iterator[list[Any]]:
    # In order of their keys, so that parents come before their children.
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=BATCH_ROWS)
    for piece in connection.execute(query).partitions():
        yield list(piece)


def _sum(total: int, rows: list[Any]) -> int:
    for row in rows:
        line = json.dumps([value.hex() if isinstance(value, float) else value for value in row], sort_keys=True)
        total += int.from_bytes(hashlib.sha256(line.encode()).digest())
    return total % _MODULUS


def _hex(total: int) -> str:
    return f"{total:064x}"
