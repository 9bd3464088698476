"""Locks that programs take in the database: on searches, on the schema, on named tasks and on hosts.

The lock order on a server: a transaction that changes a search, its candidates, attempts, leases or epochs locks the
rows of its searches first, with one statement and by ascending id (`lock_searches`). No later statement of the
transaction may wait for another search. The transaction may lock other rows in any order, because these rows belong to
the locked searches. A statement that takes rows of other searches skips locked rows (`SKIP LOCKED`). Rows of hosts,
devices and workers are written last, and the programs of a host write only the rows of that host. Two transactions can
still wait for each other because of rows that hosts share, such as architectures; `transactions.run_transaction`
repeats the transaction that the server then rolls back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, Select, select, text

from eatnas_db.database.dialects import describe_location, detached_connection, is_postgresql
from eatnas_db.database.engine import IDLE_SECONDS
from eatnas_db.database.errors import translated_errors
from eatnas_db.errors import ConflictError
from eatnas_db.file_lock import try_lock
from eatnas_db.schema.searches import search

HOST_LOCK, SCHEMA_LOCK, TASK_LOCK = 0x6EA7_0001, 0x6EA7_0002, 0x6EA7_0003
"""The first of the two keys of each PostgreSQL advisory lock: numbers that other programs in the database are unlikely
to use.
"""

NOTICE_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1
FROZEN_PROGRAM_SECONDS: Final = IDLE_SECONDS + 5
"""The seconds to wait for the locks of a frozen program, whose transaction the server ends after `IDLE_SECONDS`."""
_TRY_TASK_LOCK: Final = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"


def lock_searches(connection: Connection, ids: Select[tuple[int]]) -> frozenset[int] | None:
    """Lock the searches with these ids until the transaction ends. Until then, other hosts cannot advance these
    searches.

    Return the ids of the locked searches, or None on SQLite, where a write transaction locks the whole database.
    """
    if not is_postgresql(connection):
        return None
    rows = select(search.c.id).where(search.c.id.in_(ids)).order_by(search.c.id)
    return frozenset(connection.execute(rows.with_for_update(key_share=True)).scalars())


def outwait_frozen_programs(connection: Connection) -> None:
    """Let this transaction wait for locks long enough for the server to end the transactions of frozen programs.

    Does nothing on SQLite, which never ends the transaction of a frozen program.
    """
    if is_postgresql(connection):
        connection.execute(text(f"SET LOCAL lock_timeout = '{FROZEN_PROGRAM_SECONDS}s'"))


def lock_schema(connection: Connection) -> None:
    """Lock the tables against migrations by other programs until the transaction ends."""
    if is_postgresql(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock, 0)"), {"lock": SCHEMA_LOCK})


@contextmanager
def task_lock(
    engine: Engine,
    task: str,
    log: Callable[[str], None] = lambda _: None,
    *,
    notice_seconds: float = NOTICE_SECONDS,
) -> Iterator[None]:
    """Run the block while no other program on any host runs the task with this name. Wait for such programs first.

    `log` is called with a line if the wait takes longer than `notice_seconds`.
    """

    def wait(try_once: Callable[[], bool]) -> None:
        # Poll, because a statement that waits in the server would exceed the time limit for answers.
        started, is_noticed = time.monotonic(), False
        while not try_once():
            if not is_noticed and time.monotonic() - started >= notice_seconds:
                log(f"waiting for another program that runs the task {task!r} on {describe_location(engine)}")
                is_noticed = True
            time.sleep(POLL_SECONDS)

    if not is_postgresql(engine):
        # Resolve links, so that all paths to the database share one lock file.
        with Path(f"{Path(str(engine.url.database)).resolve()}.{task}.lock").open("a") as file:
            wait(lambda: try_lock(file))
            yield
        return
    with translated_errors(engine), closing(detached_connection(engine)) as connection:
        wait(lambda: bool(connection.execute(_TRY_TASK_LOCK, (TASK_LOCK, task)).fetchone() == (True,)))
        yield


def require_no_daemons(connection: Connection) -> None:
    """Raise `ConflictError` if daemons are connected to the server. The caller must have locked the schema.

    A daemon locks its host first, and then reads the revision under the lock of the schema. Therefore, either the
    caller sees the daemon or the daemon sees the new revision.
    """
    if connected := len(list_connected_hosts(connection)):
        raise ConflictError(
            f"daemons use this database (connected hosts: {connected}); run `eatnas-db daemon stop` on each host first"
        )


def list_connected_hosts(connection: Connection) -> frozenset[int]:
    """Return the ids of the hosts whose supervisor is connected to the server; empty on SQLite, which has no server."""
    if not is_postgresql(connection):
        return frozenset()
    return frozenset(connection.execute(_CONNECTED_HOSTS, {"lock": HOST_LOCK}).scalars())


_CONNECTED_HOSTS: Final = text(
    "SELECT CAST(objid AS bigint) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'advisory' AND CAST(classid AS bigint) = :lock AND objsubid = 2 AND granted "
    "AND datname = current_database()"
)
"""`objsubid` is 2 for locks with two keys. A lock with one key of 64 bits shows its halves as classid and objid."""
