"""Copy a record from one database to another, SQLite or PostgreSQL, and compare every row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, Table, delete, func, insert, select
from sqlalchemy.exc import DataError

from eatnas_db.database.dialects import describe_location, get_last_id, reset_id_sequence
from eatnas_db.database.locks import list_connected_hosts, lock_schema
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.record import record

BATCH_ROWS: Final = 1000
_MODULUS: Final = 1 << 256


@dataclass(frozen=True, slots=True)
class TableContents:
    """The number of rows of a table, and the sum of the hashes of its rows. The sum does not depend on the order of the
    rows.
    """

    table: str
    rows: int
    sha256: str


ProgressCallback = Callable[[str, int, int], None]
"""A function that is called with a table's name, the number of rows copied so far, and the number of all rows of the
table.
"""


def copy_record(source: Engine, target: Engine, on_progress: ProgressCallback = lambda *_: None) -> list[TableContents]:
    """Copy a record into an empty record in one transaction. Return the contents of the target's tables.

    Raises `ConflictError` if the target is in use or not empty, and `RecordError` if the copied rows differ from the
    rows of the source. The target is unchanged after an error.
    """
    with read_transaction(source) as old, transaction(target) as new:
        lock_schema(new)
        require_empty(new, describe_location(target))
        new.execute(delete(record))
        contents = [_copy_table(table, old, new, on_progress) for table in metadata.sorted_tables]
        for table in metadata.sorted_tables:
            reset_id_sequence(new, table, get_last_id(old, table))
    return contents


def require_empty(connection: Connection, place: str) -> None:
    """Raise `ConflictError` if a record holds any row, or if daemons are working on it."""
    if list_connected_hosts(connection):
        raise ConflictError(f"daemons are working on {place}; stop them, then try again")
    for table in metadata.sorted_tables:
        if table is not record and connection.execute(select(1).select_from(table).limit(1)).first() is not None:
            raise ConflictError(f"{place} holds a record that is not empty; copy into a new database")


def _copy_table(table: Table, old: Connection, new: Connection, on_progress: ProgressCallback) -> TableContents:
    rows = count_rows(old, table)
    copied = hashes = 0
    for batch in read_batches(old, table):
        try:
            new.execute(insert(table), [dict(row._mapping) for row in batch])
        except DataError as error:
            raise RecordError(
                f"a row of {table.name} cannot be stored in the target ({error.orig}); nothing was changed"
            ) from None
        hashes = add_hashes(hashes, batch)
        copied += len(batch)
        on_progress(table.name, copied, rows)
    written = read_contents(new, table)
    if written != TableContents(table.name, copied, format_hash(hashes)):
        raise RecordError(f"the rows of {table.name} changed while they were copied; nothing was changed")
    return written


def count_rows(connection: Connection, table: Table) -> int:
    """Return the number of rows of a table."""
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def read_contents(connection: Connection, table: Table) -> TableContents:
    """Count and hash the rows of a table."""
    rows = hashes = 0
    for batch in read_batches(connection, table):
        rows, hashes = rows + len(batch), add_hashes(hashes, batch)
    return TableContents(table.name, rows, format_hash(hashes))


def read_batches(connection: Connection, table: Table) -> Iterator[Sequence[Row[Any]]]:
    """Yield the rows of a table, in batches."""
    # Sort by the keys, so that parents come before their children.
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=BATCH_ROWS)
    return connection.execute(query).partitions()


def add_hashes(total: int, rows: Sequence[Sequence[Any]]) -> int:
    """Add the hashes of rows to a sum."""
    for row in rows:
        line = json.dumps([value.hex() if isinstance(value, float) else value for value in row], sort_keys=True)
        total += int.from_bytes(hashlib.sha256(line.encode()).digest())
    return total % _MODULUS


def format_hash(total: int) -> str:
    """Return a sum of hashes as 64 hexadecimal digits."""
    return f"{total:064x}"
