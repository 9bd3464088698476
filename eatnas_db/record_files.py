"""Export a record to files that other programs can read, and import such files into an empty record.

The folder has one file for each table, as JSON lines or Parquet, and `manifest.json` with the schema's revision and the
number of rows and the hash of each table. An import compares the number and the hash with those of the rows that it
reads.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import JSON, Boolean, Connection, Engine, Float, Integer, Table, delete, insert
from sqlalchemy.exc import SQLAlchemyError

from eatnas_db.database.dialects import describe_location, get_last_id, reset_id_sequence
from eatnas_db.database.locks import lock_schema
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.database_copy import (
    BATCH_ROWS,
    ProgressCallback,
    TableContents,
    add_hashes,
    count_rows,
    format_hash,
    read_batches,
    read_contents,
    require_empty,
)
from eatnas_db.distributions import require_module
from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.errors import ConflictError, DataError, RecordError
from eatnas_db.input_files import read_input
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.record import REVISION, record

FORMAT: Final = "eatnas-db record"
MANIFEST: Final = "manifest.json"
MANIFEST_MEGABYTES: Final = 10
MAX_SHOWN: Final = 100
"""The maximum number of characters of a value in a message."""


class FileFormat(StrEnum):
    """The format of the tables' files."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`; `last_ids` are the highest assigned ids of the tables."""

    format: str
    revision: str
    files: str
    tables: list[TableContents]
    last_ids: dict[str, int]


def export_record(
    engine: Engine, folder: Path, file_format: FileFormat, on_progress: ProgressCallback = lambda *_: None
) -> list[TableContents]:
    """Write a record into a new folder, from one snapshot. Raises `ConflictError` if the folder exists."""
    if file_format is FileFormat.PARQUET:
        require_module("pyarrow")
    _require_new(folder)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        with read_transaction(engine) as connection:
            tables = [_export_table(connection, table, temporary, file_format, on_progress) for table in _tables()]
            last_ids = {table.name: last for table in _tables() if (last := get_last_id(connection, table)) is not None}
        manifest = Manifest(FORMAT, REVISION, file_format, tables, last_ids)
        (temporary / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
        _require_new(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tables


def import_record(engine: Engine, folder: Path, on_progress: ProgressCallback = lambda *_: None) -> list[TableContents]:
    """Read the files of `export_record` into an empty record, in one transaction.

    Raises `RecordError` if a file is missing, damaged or of another revision of the schema, and `ConflictError` if the
    record is in use or not empty. The record is unchanged after an error.
    """
    manifest = read_manifest(folder)
    file_format = FileFormat(manifest.files)
    if file_format is FileFormat.PARQUET:
        require_module("pyarrow")
    expected = {table.table: table for table in manifest.tables}
    with transaction(engine) as connection:
        lock_schema(connection)
        require_empty(connection, describe_location(engine))
        connection.execute(delete(record))
        for table in _tables():
            file = folder / f"{table.name}.{file_format}"
            _import_table(connection, table, file, expected[table.name], file_format, on_progress)
        for table in _tables():
            reset_id_sequence(connection, table, manifest.last_ids.get(table.name))
    return manifest.tables


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`. Raises `RecordError` unless the manifest describes all tables of this program's schema."""
    file = folder / MANIFEST
    try:
        if not folder.exists():
            raise RecordError(
                f"{folder} does not exist; choose a folder that `db export` has written, or a file of scores"
            )
        if not file.exists():
            raise RecordError(
                f"{folder} is not an exported record: it has no {MANIFEST}; choose a folder that `db export` has "
                "written"
            )
        content = json.loads(read_input(file, most_megabytes=MANIFEST_MEGABYTES).decode("utf-8"))
        tables = [TableContents(**table) for table in content["tables"]]
        manifest = Manifest(
            format=content["format"],
            revision=str(content["revision"]),
            files=FileFormat(content["files"]),
            tables=tables,
            last_ids={str(name): int(last) for name, last in content["last_ids"].items()},
        )
    except DataError as error:
        raise RecordError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = repr(error)[:MAX_SHOWN]
        raise RecordError(
            f"{file} is damaged, or another program wrote it ({reason}); export the record again"
        ) from None
    if any(not 0 <= last <= MAX_BIGINT for last in manifest.last_ids.values()):
        raise RecordError(
            f"{file} is damaged: an id in last_ids is not from 0 to {MAX_BIGINT}; export the record again"
        )
    if manifest.format != FORMAT:
        found = str(manifest.format)[:MAX_SHOWN]
        raise RecordError(
            f"{file} has the format {found!r}, expected {FORMAT!r}; choose a folder that `db export` has written"
        )
    if manifest.revision != REVISION:
        raise RecordError(
            f"{folder} was exported from schema version {manifest.revision[:MAX_SHOWN]}, but this program reads "
            f"{REVISION}; export it again after `eatnas-db db upgrade`, or use the program that exported it"
        )
    if missing := {table.name for table in _tables()} - {table.table for table in tables}:
        raise RecordError(f"{file} lacks the table {min(missing)}; export the record again")
    return manifest


def _tables() -> Sequence[Table]:
    return metadata.sorted_tables


def _require_new(folder: Path) -> None:
    if folder.exists():
        raise ConflictError(f"{folder} already exists; choose another folder, or delete it")
    if not folder.parent.is_dir():
        raise ConflictError(f"folder {folder.parent} does not exist; create it first")


def _export_table(
    connection: Connection, table: Table, folder: Path, file_format: FileFormat, on_progress: ProgressCallback
) -> TableContents:
    file = folder / f"{table.name}.{file_format}"
    total = count_rows(connection, table)
    rows = hashes = 0

    def batches() -> Iterator[Sequence[Mapping[str, Any]]]:
        nonlocal rows, hashes
        for batch in read_batches(connection, table):
            rows, hashes = rows + len(batch), add_hashes(hashes, batch)
            yield [dict(row._mapping) for row in batch]
            on_progress(table.name, rows, total)

    if file_format is FileFormat.JSONL:
        _write_lines(file, batches())
    else:
        _write_parquet(file, table, batches())
    return TableContents(table.name, rows, format_hash(hashes))


def _write_lines(file: Path, batches: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    with file.open("w", encoding="utf-8") as opened:
        for batch in batches:
            opened.writelines(json.dumps(row) + "\n" for row in batch)


def _write_parquet(file: Path, table: Table, batches: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(column.name, _arrow_type(column.type)) for column in table.columns])
    json_columns = _json_columns(table)
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            rows = [{name: _to_text(value, name in json_columns) for name, value in row.items()} for row in batch]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _arrow_type(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, Boolean):
        return pyarrow.bool_()
    if isinstance(kind, Float):
        return pyarrow.float64()
    return pyarrow.int64() if isinstance(kind, Integer) else pyarrow.string()


def _json_columns(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.columns if isinstance(column.type, JSON))


def _to_text(value: Any, is_json: bool) -> Any:
    return json.dumps(value) if is_json and value is not None else value


def _import_table(
    connection: Connection,
    table: Table,
    file: Path,
    expected: TableContents,
    file_format: FileFormat,
    on_progress: ProgressCallback,
) -> None:
    _require_file(file)
    read = _read_lines(file) if file_format is FileFormat.JSONL else _read_parquet(file, table)
    names = {column.name for column in table.columns}
    done = 0
    for batch in read:
        for number, row in enumerate(batch, done + 1):
            if not isinstance(row, dict) or set(row) != names:
                raise RecordError(f"row {number} of {file} does not have the columns of {table.name}; export it again")
        try:
            connection.execute(insert(table), batch)
        except (SQLAlchemyError, OverflowError, TypeError, ValueError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise RecordError(f"a row of {file} cannot be stored ({reason}); nothing was changed") from None
        done += len(batch)
        on_progress(table.name, done, expected.rows)
    if read_contents(connection, table) != expected:
        raise RecordError(f"the rows of {file} have changed since the export; nothing was imported; export it again")


def _require_file(file: Path) -> None:
    """Raise `RecordError` unless the file is a regular file: a read from a device or a pipe may never end."""
    if not file.exists():
        raise RecordError(f"{file} is missing; export the record again")
    if not file.is_file():
        raise RecordError(f"{file} is not a regular file; export the record again")


def _read_lines(file: Path) -> Iterator[list[Any]]:
    batch: list[Any] = []
    try:
        with file.open(encoding="utf-8") as opened:
            for number, line in enumerate(opened, 1):
                try:
                    batch.append(json.loads(line))
                except (ValueError, RecursionError):
                    raise RecordError(f"line {number} of {file} is not JSON; export the record again") from None
                if len(batch) == BATCH_ROWS:
                    yield batch
                    batch = []
    except UnicodeDecodeError:
        raise RecordError(f"{file} is not text in UTF-8; export the record again") from None
    if batch:
        yield batch


def _read_parquet(file: Path, table: Table) -> Iterator[list[Any]]:
    import pyarrow
    import pyarrow.parquet

    json_columns = _json_columns(table)
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS):
                yield [
                    {name: _from_text(value, name in json_columns) for name, value in row.items()}
                    for row in batch.to_pylist()
                ]
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RecordError(f"{file} cannot be read ({reason}); export the record again") from None


def _from_text(value: Any, is_json: bool) -> Any:
    return json.loads(value) if is_json and value is not None else value
