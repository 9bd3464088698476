"""Engines, the one transaction scope, and every difference between SQL dialects."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.exc import DatabaseError, DBAPIError

from eatnas_db.errors import RecordError
from eatnas_db.schema import REVISION, VERSION_TABLE

BUSY_SECONDS: Final = 30
LEAST_FREE_BYTES: Final = 1_000_000
NETWORK_FILE_SYSTEMS: Final = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "afs",
        "fuse.sshfs",
        "fuse.glusterfs",
    ]
)


def create_engine_for(url: str, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine whose transactions begin when they say so; the file need not exist.

    On SQLite the driver's own transactions are switched off: they would leave a migration that is killed
    halfway torn, and take a write lock too late.
    """
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def open_record(url: str, mounts: Path = Path("/proc/mounts"), busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine on an existing record of this code's version. Raises `RecordError` with the way out.

    `busy_seconds`: how long to wait for another program's transaction before giving up.
    """
    file = Path(url.removeprefix("sqlite:///"))
    refuse_network_file_system(file, mounts)
    if not file.exists():
        raise RecordError(f"no record at {file}; `eatnas-db init` makes one")
    engine = create_engine_for(url, busy_seconds)
    found = current_revision(engine)
    if found is None:
        raise RecordError(f"{file} holds no eatnas-db record; `eatnas-db init` adds one")
    if found != REVISION:
        older = found < REVISION
        raise RecordError(
            f"the record in {file} is of {'an older' if older else 'a newer'} version ({found}; this program: "
            f"{REVISION}); {'run `eatnas-db db upgrade`' if older else 'update eatnas-db to open it'}"
        )
    return engine


def current_revision(engine: Engine) -> str | None:
    """The Alembic revision of the record behind an engine; None where there is none."""
    with reading(engine) as connection:
        table = connection.execute(
            text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"), {"name": VERSION_TABLE}
        ).first()
        if table is None:
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        return None if found is None else str(found)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction: everything or nothing. The only place that commits."""
    with _explained(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the record. Keep it short: an open reader lets the write-ahead log grow."""
    with (
        _explained(engine),
        engine.connect().execution_options(eatnas_reading=True) as connection,
        connection.begin(),
    ):
        yield connection


def insert_new(table: Table) -> Insert:
    """INSERT … ON CONFLICT DO NOTHING: of writers that race for one row, the first wins."""
    return insert(table).on_conflict_do_nothing()


class ChangeWatch:
    """Tells whether somebody else has written since the last look, for the price of one PRAGMA."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._seen: Any = None

    def changed(self) -> bool:
        """True at the first look, then whenever another connection has committed."""
        cursor = self._connection.cursor()
        (version,) = cursor.execute("PRAGMA data_version").fetchone()
        cursor.close()
        before, self._seen = self._seen, version
        return bool(before != version)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


def refuse_network_file_system(file: Path, mounts: Path) -> None:
    """Raise `RecordError` where SQLite's locks cannot be trusted."""
    kind = _file_system(file, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise RecordError(
            f"{file} lies on a network file system ({kind}), where SQLite loses data; "
            "put the record on a local disk with --db sqlite:////local/path/eatnas.db"
        )


def _full(file: Path) -> bool:
    try:
        return shutil.disk_usage(file.parent).free < LEAST_FREE_BYTES
    except OSError:
        return False


def _file_system(file: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    target = file.absolute()
    best: tuple[int, str | None] = (0, None)
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        # The kernel writes spaces in mount points as \040.
        mount = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point))
        if target.is_relative_to(mount) and len(mount.parts) >= best[0]:
            best = (len(mount.parts), kind)
    return best[1]


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("eatnas_reading", False)
    # IMMEDIATE: a writer takes its place in the queue at once, instead of failing at its first write.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _explained(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        message = _in_words(error, str(engine.url.database))
        if message is None:
            raise
        raise RecordError(message) from error


def _in_words(error: DBAPIError, file: str) -> str | None:
    cause = str(error.orig)
    if "disk I/O" in cause and _full(Path(file)):
        cause = "disk is full"  # which SQLite tells in other words where it cannot even write its shared memory
    for sign, words in (
        ("locked", f"{file} is held by another program's open transaction; end that program, or try again"),
        ("readonly", f"{file} cannot be written: the file, its folder or the disk is read-only"),
        ("unable to open", f"{file} cannot be opened; check that its folder exists and may be written"),
        ("disk is full", f"the disk of {file} is full; make room, then go on: nothing is lost"),
        ("disk I/O", f"the disk of {file} gives errors ({cause}); check it before you go on"),
        ("not a database", f"{file} is not an SQLite database"),
        ("malformed", f"{file} is damaged ({cause}); restore a backup"),
    ):
        if sign in cause and isinstance(error, DatabaseError):
            return words
    return None
