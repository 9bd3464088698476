"""Engines, the one transaction scope, and every difference between SQL dialects."""

from __future__ import annotations

import fcntl
import gc
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import URL, Connection, Engine, Select, Table, create_engine, event, func, make_url, select, text

# Compiles to the same words on SQLite; SQLite's own does not compile on PostgreSQL.
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError

from eatnas_db.errors import CollisionError, ConflictError, RecordError
from eatnas_db.schema import PREFIX, REVISION, VERSION_TABLE, candidate, search
from eatnas_db.schema import event as events

BUSY_SECONDS: Final = 30
IDLE_SECONDS: Final = 10
"""A program that is frozen inside a transaction holds up all others on a server for so long at most."""
READING_SECONDS: Final = 600
"""The same for one that only reads: it holds nobody up, and may have a million rows to look at."""
CONNECT_SECONDS: Final = 5
RECONNECT_SECONDS: Final = 2.0
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
    """An engine whose transactions begin when they say so; the database need not hold a record.

    On SQLite the driver's own transactions are switched off: they would leave a migration that is killed
    halfway torn, and take a write lock too late. Raises `RecordError` for databases that are not supported.
    """
    if not url.startswith("sqlite:"):
        return _create_server_engine(url, busy_seconds)
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def open_record(url: str, mounts: Path = Path("/proc/mounts"), busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine on an existing record of this code's version. Raises `RecordError` with the way out.

    `busy_seconds`: how long to wait for another program's transaction before giving up.
    """
    if url.startswith("sqlite:"):
        file = Path(url.removeprefix("sqlite:///"))
        refuse_network_file_system(file, mounts)
        if not file.exists():
            raise RecordError(f"no record at {file}; `eatnas-db init` makes one")
    engine = create_engine_for(url, busy_seconds)
    found, place = current_revision(engine), where(engine)
    if found is None:
        raise RecordError(f"{place} holds no eatnas-db record; `eatnas-db init` adds one")
    if found != REVISION:
        older = found < REVISION
        raise RecordError(
            f"the record in {place} is of {'an older' if older else 'a newer'} version ({found}; this program: "
            f"{REVISION}); {'run `eatnas-db db upgrade`' if older else 'update eatnas-db to open it'}"
        )
    return engine


def where(engine: Engine) -> str:
    """The database's place, fit to be printed: the file, or the server and the database there."""
    return _place(engine.url)


def current_revision(engine: Engine) -> str | None:
    """The Alembic revision of the record behind an engine; None where there is none."""
    there = "SELECT to_regclass(:name)"
    if not on_server(engine):
        there = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = :name"
    with reading(engine) as connection:
        if connection.execute(text(there), {"name": VERSION_TABLE}).scalar() is None:
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        return None if found is None else str(found)


def on_server(bind: Engine | Connection) -> bool:
    """Whether several hosts may work on the record: it is no file."""
    return bind.dialect.name != "sqlite"


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction: everything or nothing. The only place that commits.

    On a server what it reads may change from one statement to the next (READ COMMITTED): take locks first, or
    guard what you write. Raises `CollisionError` where it met another one and is to be repeated as a whole.
    """
    with _explained(engine), engine.begin() as connection:
        yield connection
        if connection.info.pop(_WROTE, None):
            sender = connection.get_execution_options()["eatnas_sender"]
            connection.execute(_NOTIFY, {"channel": _CHANNEL, "sender": sender})


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the record. Keep it short: an open reader lets the write-ahead log grow."""
    options: dict[str, Any] = {"eatnas_reading": True}
    if on_server(engine):
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with (
        _UNCOLLECTED,
        _explained(engine),
        engine.connect().execution_options(**options) as connection,
        connection.begin(),
    ):
        if on_server(engine):
            connection.execute(_READERS_MAY_REST)
        yield connection


class _Uncollected:
    """No search for cyclic garbage meanwhile: rows have no cycles, and to look takes a third of a long answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before:
                gc.enable()


_UNCOLLECTED: Final = _Uncollected()


@contextmanager
def viewing(url: str) -> Iterator[Connection]:
    """One look at a record, which is opened for it. Raises `RecordError`."""
    with _opened(url) as engine, reading(engine) as connection:
        yield connection


@contextmanager
def changing(url: str) -> Iterator[Connection]:
    """One change of a record, which is opened for it. Raises `RecordError`."""
    with _opened(url) as engine, transaction(engine) as connection:
        yield connection


@contextmanager
def _opened(url: str) -> Iterator[Engine]:
    engine = open_record(url)
    try:
        yield engine
    finally:
        engine.dispose()


def insert_new(table: Table) -> Insert:
    """INSERT … ON CONFLICT DO NOTHING: of writers that race for one row, the first wins."""
    return insert(table).on_conflict_do_nothing()


def hold_searches(connection: Connection, which: Select[Any]) -> None:
    """Make other hosts wait to settle and breed the searches selected by id, until this transaction ends.

    Everybody takes them in the same order, so that no two wait for each other. On SQLite a write transaction
    has the whole record anyway.
    """
    if on_server(connection):
        rows = select(search.c.id).where(search.c.id.in_(which)).order_by(search.c.id)
        connection.execute(rows.with_for_update(key_share=True)).all()


def count_on(connection: Connection, table: Table) -> None:
    """Let the database number further rows after those that were inserted with numbers of their own."""
    if on_server(connection) and table.autoincrement_column is not None:
        column = table.autoincrement_column
        largest = select(func.max(column)).scalar_subquery()
        counter = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(counter, func.coalesce(largest, 1), largest.is_not(None))))


def hold_schema(connection: Connection) -> None:
    """Make other programs wait to change the tables, until this transaction ends."""
    if on_server(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:a, 0)"), {"a": _SCHEMA_LOCK})


@contextmanager
def alone(engine: Engine, what: str) -> Iterator[None]:
    """Of all programs on this record, one at a time does `what`."""
    if not on_server(engine):
        with Path(f"{engine.url.database}.{what}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with _explained(engine), closing(_apart(engine)) as connection:
        connection.execute("SET lock_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_WHAT_LOCK, what))
        yield


def living_hosts(connection: Connection) -> frozenset[int]:
    """The ids of the hosts whose supervisor is connected to the server now; on SQLite nobody can tell."""
    if not on_server(connection):
        return frozenset()
    return frozenset(connection.execute(_LIVING_HOSTS, {"a": _HOST_LOCK}).scalars())


class EventWatermark:
    """How far the events are complete: up to there no open transaction can add one any more.

    A server numbers events before their transactions are committed, so a later one may be seen before an earlier
    one: who goes on from the last that was seen would miss it. Nobody is waited for; each look tells what has ended
    since the one before.
    """

    def __init__(self) -> None:
        self._reached = self._next = 0
        self._writers: frozenset[str] = frozenset()

    def look(self, engine: Engine) -> int:
        """The id of the last event up to which all can be read, by a transaction that begins after this."""
        with reading(engine) as connection:
            newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
            # After the numbers, and not as of the same moment: whoever wrote one of them is seen, or has ended.
            now = frozenset(connection.execute(_EVENT_WRITERS).scalars()) if on_server(connection) else frozenset()
        if not now & self._writers:
            self._reached, self._next, self._writers = self._next, newest, now
        if not now:
            self._reached = newest
        return self._reached


class ChangeWatch(Protocol):
    """Tells whether somebody else has written since the last look, for next to nothing."""

    @property
    def fileno(self) -> int | None:
        """Readable when there may be something to tell; None where one has to look."""

    def changed(self) -> bool:
        """True at the first look, then whenever another program has committed. May be True for nothing.

        Raises `RecordError` where the record was brought to another version meanwhile.
        """

    def hold_host(self, host_id: int, name: str) -> None:
        """Be this host's one supervisor on a server, until closed or dead. Raises `ConflictError`."""

    def close(self) -> None:
        """Give the connection back."""


def watch_changes(engine: Engine) -> ChangeWatch:
    """Watch what others write."""
    return _Notifications(engine) if on_server(engine) else _DataVersion(engine)


class _DataVersion:
    """SQLite's count of the commits of others, asked by one PRAGMA."""

    @property
    def fileno(self) -> None:
        return None

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._seen: Any = None

    def changed(self) -> bool:
        try:
            ((version,),) = self._connection.cursor().execute("PRAGMA data_version").fetchall()
        except sqlite3.Error:
            return True  # what is wrong is told by the transaction that looks
        before, self._seen = self._seen, version
        return bool(before != version)

    def hold_host(self, host_id: int, name: str) -> None:
        """The lock beside the file has seen to it."""

    def close(self) -> None:
        self._connection.close()


class _Notifications:
    """PostgreSQL's LISTEN, on a connection of its own that is made again when it is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._host_id: int | None = None
        self._missed = False
        self._try_at = 0.0

    @property
    def fileno(self) -> int | None:
        return None if self._connection is None else int(self._connection.fileno())

    def changed(self) -> bool:
        if self._connection is None:
            self._connect_again()
        heard, self._missed = self._missed, False
        if self._connection is None:
            return heard
        from psycopg import Error

        own = self._engine.get_execution_options()["eatnas_sender"].encode()
        try:
            self._connection.pgconn.consume_input()
            while (note := self._connection.pgconn.notifies()) is not None:
                heard = heard or note.extra != own
        except Error:
            self.close()
        return heard

    def _connect_again(self) -> None:
        if time.monotonic() < self._try_at:
            return
        self._try_at = time.monotonic() + RECONNECT_SECONDS
        found = None
        # Who cannot connect is told so by the next transaction.
        with suppress(RecordError), _explained(self._engine):
            self._listen()
            if self._host_id is not None:
                # In vain while the server has not noticed yet that our last connection is gone.
                self._take()
            found = self._connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
        if found is not None and found[0] != REVISION:
            # While we were not seen, nothing kept anybody from it.
            self.close()
            raise RecordError(
                f"the record in {where(self._engine)} was brought to another version ({found[0]}; this program: "
                f"{REVISION}); update eatnas-db and start again: what was in training goes on from its checkpoints"
            )

    def hold_host(self, host_id: int, name: str) -> None:
        self._host_id = host_id
        with _explained(self._engine):
            if self._connection is None:
                self._listen()
            if not self._take():
                raise ConflictError(
                    f"a daemon of host {name!r} works on this record already, from another home or machine; "
                    "EATNAS_HOST gives this one a name of its own"
                )

    def _listen(self) -> None:
        self._connection = _apart(self._engine)
        self._connection.execute(f"LISTEN {_CHANNEL}")
        self._missed = True

    def _take(self) -> bool:
        locked = self._connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_HOST_LOCK, self._host_id))
        return bool(locked.fetchone()[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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


_WROTE: Final = "eatnas_wrote"
_CHANNEL: Final = f"{PREFIX}changes"
_NOTIFY: Final = text("SELECT pg_notify(:channel, :sender)")
_HOST_LOCK, _SCHEMA_LOCK, _WHAT_LOCK = 0x6EA7_0001, 0x6EA7_0002, 0x6EA7_0003
"""The first halves of our advisory locks: numbers that nobody else is likely to use in a shared database."""
_LIVING_HOSTS: Final = text(
    "SELECT CAST(objid AS bigint) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'advisory' AND CAST(classid AS bigint) = :a AND granted AND datname = current_database()"
)
_READERS_MAY_REST: Final = text(f"SET LOCAL idle_in_transaction_session_timeout = '{READING_SECONDS}s'")
_EVENT_WRITERS: Final = text(
    "SELECT virtualtransaction FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'relation' AND relation = to_regclass(:name) AND mode = 'RowExclusiveLock' AND granted "
    "AND datname = current_database()"
).bindparams(name=events.name)
_SETTINGS: Final = {
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    # So that the server notices within half a minute when a host is gone with its power or its network.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def _create_server_engine(url: str, busy_seconds: float) -> Engine:
    try:
        address = make_url(url)
    except ArgumentError:
        raise RecordError("the database URL cannot be understood; write postgresql://USER@HOST/DATABASE") from None
    if address.drivername not in ("postgresql", "postgresql+psycopg"):
        raise RecordError(
            f"databases of kind {address.drivername!r} are not supported: use PostgreSQL "
            "(postgresql+psycopg://USER@HOST/DATABASE) or SQLite (sqlite:///FILE)"
        )
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            execution_options={"eatnas_sender": uuid.uuid4().hex},
            connect_args={
                "application_name": "eatnas-db",
                "connect_timeout": CONNECT_SECONDS,
                "tcp_user_timeout": 20_000,
                "keepalives_idle": 10,
                **address.query,
            },
        )
    except ModuleNotFoundError:
        raise RecordError("PostgreSQL needs its driver: pip install 'eatnas-db[postgres]'") from None
    limits = {**_SETTINGS, "lock_timeout": f"{round(1000 * busy_seconds)}ms"}
    asked = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in limits.items())

    def prepare(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(asked)
        connection.autocommit = False

    event.listen(engine, "connect", prepare)
    event.listen(engine, "after_cursor_execute", _notice)
    return engine


def _notice(connection: Connection, cursor: Any, _sql: str, _given: Any, context: Any, _many: bool) -> None:
    """Remember that this transaction has written what other hosts may be waiting for."""
    if (context.isinsert or context.isupdate or context.isdelete) and cursor.rowcount != 0:
        table = getattr(context.invoked_statement, "table", None)
        if table is candidate or table is search:
            connection.info[_WROTE] = True


def _apart(engine: Engine) -> Any:
    """A driver's connection that no pool knows of, each of whose statements is a transaction."""
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    pooled.detach()
    assert connection is not None
    connection.autocommit = True
    return connection


def _place(url: URL) -> str:
    """Never with the password, nor with the query, which may hold one too."""
    if url.drivername.startswith("sqlite"):
        return str(url.database)
    host = url.host or url.query.get("host") or "localhost"
    return f"database {url.database or url.username} on {host}{f':{url.port}' if url.port else ''}"


@contextmanager
def _explained(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raised = _explanation(engine, error, error.orig)
        if raised is None:
            raise
        raise raised from error
    except Exception as error:
        # The driver's own, from a connection of our own.
        raised = _explanation(engine, error, error) if hasattr(error, "sqlstate") else None
        if raised is None:
            raise
        raise raised from error


def _explanation(engine: Engine, error: Exception, cause: BaseException | None) -> RecordError | None:
    if on_server(engine):
        return _of_server(cause, where(engine), lost=getattr(error, "connection_invalidated", False))
    message = _in_words(str(cause), where(engine)) if isinstance(error, DatabaseError) else None
    return None if message is None else RecordError(message)


def _of_server(cause: Any, place: str, *, lost: bool) -> RecordError | None:
    """An error of PostgreSQL, by its code where it has one, else by the words of a refused connection."""
    state = getattr(cause, "sqlstate", None) or ""
    lines = str(cause).strip().splitlines() or [""]
    if state in ("40001", "40P01"):
        return CollisionError(f"another program changed the same rows of {place} at the same time; try again")
    for sign, words in _BY_STATE.items():
        if state.startswith(sign):
            return RecordError(words.format(place=place, cause=lines[0]))
    if lost or (not state and type(cause).__name__ in ("OperationalError", "ConnectionTimeout")):
        for sign, words in _BY_WORDS.items():
            if sign in str(cause):
                return RecordError(words.format(place=place, cause=lines[-1]))
        return RecordError(_UNREACHABLE.format(place=place, cause=lines[0]))
    return None


_UNREACHABLE: Final = "{place} cannot be reached ({cause}); what was not written yet is written when it can be"
_BY_STATE: Final = {
    "08": _UNREACHABLE,
    "57P": _UNREACHABLE,
    "25P03": _UNREACHABLE,
    "53300": "{place} takes no more connections ({cause}); raise its max_connections",
    "53100": "the disk of {place} is full; make room, then go on: nothing is lost",
    "25006": "{place} cannot be written: it is read-only, perhaps a standby",
    "42501": "{place} cannot be written by this user ({cause}); grant it the rights, or name another user",
    "55P03": "{place} is held by another program's open transaction; end that program, or try again",
    "28": "{place} lets this user not in ({cause}); check the user and its password",
    "3D000": "there is no such database: {place} ({cause}); create it, or correct --db",
}
_BY_WORDS: Final = {
    "password": "{place} lets this user not in ({cause}); check the user and its password",
    "no pg_hba.conf entry": "{place} lets this user not in ({cause}); check the user and its password",
    "role": "{place} lets this user not in ({cause}); check the user and its password",
    "does not exist": "there is no such database: {place} ({cause}); create it, or correct --db",
}


def _in_words(cause: str, file: str) -> str | None:
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
        if sign in cause:
            return words
    return None
