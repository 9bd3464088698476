"""PostgreSQL: concurrent writers, conflicts between writers, and refused connections."""

import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from sqlalchemy import insert, select, text, update

from eatnas_db import events, hosts
from eatnas_db.database.changes import watch_changes
from eatnas_db.database.engine import create_engine_for, current_revision, open_record
from eatnas_db.database.event_watermark import EventWatermark
from eatnas_db.database.locks import HOST_LOCK, list_connected_hosts
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import CollisionError, ConflictError, OwnershipError, RecordError, TransactionRollbackError
from eatnas_db.queries.events import list_events
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.record import VERSION_TABLE
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search, breed_births, settle_births
from eatnas_db.settings import load_settings
from eatnas_migrations import commands
from support.databases import ON_POSTGRESQL
from support.waiting import eventually

LEASER = """
import sys
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.transitions import lease_next
engine = open_record(sys.argv[1])
sys.stdin.readline()
while True:
    with transaction(engine) as connection:
        leased = lease_next(connection, 1, host_id=int(sys.argv[2]), worker_id=int(sys.argv[2]), now=1.0)
    if leased is None:
        break
    print(leased.token.candidate)
"""


@ON_POSTGRESQL
@pytest.mark.slow
def test_concurrent_processes_lease_every_candidate_once(engine, url, search_factory):
    with transaction(engine) as connection:
        for number in (2, 3, 4):
            connection.execute(insert(host).values(id=number, name=f"host {number}", seen_at=0))
            connection.execute(insert(device).values(id=number, host_id=number, uuid=number, kind="cpu", name="x"))
            connection.execute(insert(worker).values(id=number, device_id=number, slot=0, pid=1, started_at=0))
    search_factory(evolution__population=120, evolution__lag=4, budget__candidates=120)
    leasers = [
        subprocess.Popen(
            [sys.executable, "-c", LEASER, url, str(1 + number % 4)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    # Start the processes only after all of them have loaded their modules.
    for leaser in leasers:
        leaser.stdin.write("go\n")
        leaser.stdin.flush()
    leases = Counter(line for leaser in leasers for line in leaser.communicate()[0].split())
    assert len(leases) == 120
    assert set(leases.values()) == {1}


@ON_POSTGRESQL
def test_lease_skips_a_locked_candidate(engine, search_factory, lease_factory):
    search_id = search_factory()
    with transaction(engine) as connection:
        connection.execute(text("SELECT 1 FROM eatnas_candidate WHERE birth = 0 FOR NO KEY UPDATE"))
        assert lease_factory(search_id).birth == 1
    assert lease_factory(search_id).birth == 0


@ON_POSTGRESQL
def test_deadlock_rolls_one_transaction_back(engine, search_factory):
    first, second = search_factory("a"), search_factory("b")
    both = threading.Barrier(2)
    outcomes = []

    def update_both(first_id, second_id):
        try:
            with transaction(engine) as connection:
                connection.execute(update(search).where(search.c.id == first_id).values(priority=1))
                both.wait()
                connection.execute(update(search).where(search.c.id == second_id).values(priority=2))
            outcomes.append("written")
        except TransactionRollbackError as error:
            outcomes.append(type(error.__cause__.orig).__name__)

    threads = [threading.Thread(target=update_both, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["DeadlockDetected", "written"]


@ON_POSTGRESQL
def test_serialization_failure_can_be_repeated(engine, search_factory):
    search_id = search_factory()
    change = update(search).where(search.c.id == search_id)

    def update_from_old_snapshot():
        with transaction(engine) as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            connection.execute(select(search.c.id)).all()
            with transaction(engine) as other:
                other.execute(change.values(priority=1))
            connection.execute(change.values(priority=2))

    with pytest.raises(TransactionRollbackError, match="try again"):
        update_from_old_snapshot()


@ON_POSTGRESQL
def test_stale_search_row_settles_nothing(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory()
    with read_transaction(engine) as connection:
        stale = connection.execute(select(search)).one()
    score_factory(lease_factory(search_id), 0.5)
    with transaction(engine) as connection:
        assert settle_births(connection, search_id, 3.0) == 1
    with pytest.raises(CollisionError, match="settled birth 0"), transaction(engine) as connection:
        advance_search(connection, stale, 3.0)


@ON_POSTGRESQL
def test_concurrent_hosts_settle_each_birth_once(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory()
    leased = [lease_factory(search_id) for _ in range(4)]
    for lease in leased:
        score_factory(lease, 0.5)
    settled = []

    def settle():
        with transaction(engine) as connection:
            settled.append(settle_births(connection, search_id, 3.0))
            breed_births(connection, search_id, 3.0)

    threads = [threading.Thread(target=settle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(settled) == [0, 0, 0, 4]
    with read_transaction(engine) as connection:
        row = connection.execute(select(search)).one()
    assert (row.settled, row.born) == (4, 7)


@ON_POSTGRESQL
def test_concurrent_programs_create_one_record(url):
    engines = [create_engine_for(url) for _ in range(3)]
    threads = [threading.Thread(target=commands.upgrade, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert current_revision(engines[0]) is not None
    assert not commands.differs_from_models(engines[0])


@ON_POSTGRESQL
def test_lock_timeout_names_the_cause(engine, url, search_factory):
    search_factory()
    impatient = open_record(url, busy_seconds=0.1)
    with transaction(engine) as connection:
        connection.execute(update(search).values(priority=1))
        with pytest.raises(RecordError, match="locked by another program"), transaction(impatient) as other:
            other.execute(update(search).values(priority=2))


@ON_POSTGRESQL
def test_read_transaction_is_read_only_and_consistent(engine, search_factory):
    search_factory()
    with read_transaction(engine) as connection:
        before = connection.execute(select(search.c.priority)).scalar_one()
        with transaction(engine) as other:
            other.execute(update(search).values(priority=before + 1))
        assert connection.execute(select(search.c.priority)).scalar_one() == before
    with pytest.raises(RecordError, match="read-only"), read_transaction(engine) as connection:
        connection.execute(update(search).values(priority=7))


@ON_POSTGRESQL
def test_reconnected_watch_refuses_a_migrated_record(engine, url, search_factory):
    search_factory()
    watch = watch_changes(create_engine_for(url))
    watch.lock_host(1, "here")
    with transaction(engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))

    def poll():
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            watch.changed()
            time.sleep(0.05)

    with pytest.raises(RecordError, match="migrated to version"):
        poll()
    with pytest.raises(RecordError, match="newer version"):
        open_record(url)


def host_sessions(connection):
    """Return the ids of the server's processes that hold the lock of a host."""
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = :lock AND granted"
    return connection.execute(text(held), {"lock": HOST_LOCK}).scalars().all()


def end_host_session(engine):
    """Break the connection that holds the lock of a host, as an administrator does."""
    with transaction(engine) as connection:
        (pid,) = host_sessions(connection)
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    def is_free():
        with read_transaction(engine) as connection:
            return not list_connected_hosts(connection)

    eventually(is_free)


def regains_host(watch):
    watch.changed()
    return watch.holds_host


@ON_POSTGRESQL
def test_lock_of_a_host_is_taken_again_after_a_reconnect(engine, url):
    watch = watch_changes(create_engine_for(url))
    watch.lock_host(1, "here")
    end_host_session(engine)
    eventually(lambda: not regains_host(watch))
    eventually(lambda: regains_host(watch))
    with read_transaction(engine) as connection:
        assert list_connected_hosts(connection) == {1}
    with pytest.raises(ConflictError, match="connected hosts: 1"):
        commands.downgrade(engine, "base")
    watch.close()


@ON_POSTGRESQL
def test_lock_with_one_key_is_no_connected_host(engine):
    with read_transaction(engine) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": HOST_LOCK << 32 | 1})
        assert host_sessions(connection)
        assert list_connected_hosts(connection) == frozenset()
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock, 1)"), {"lock": HOST_LOCK})
        assert list_connected_hosts(connection) == {1}


@ON_POSTGRESQL
def test_connection_that_the_server_still_keeps_is_ended(engine, url):
    """A network failure breaks the connection of a program, and the server does not notice."""
    watch = watch_changes(create_engine_for(url))
    watch.lock_host(1, "here")
    with read_transaction(engine) as connection:
        (before,) = host_sessions(connection)
    kept = watch._connection
    watch._connection, watch._holds_host = None, False
    eventually(lambda: regains_host(watch))
    with read_transaction(engine) as connection:
        (after,) = host_sessions(connection)
    assert after != before
    watch.close()
    kept.close()


@ON_POSTGRESQL
def test_daemon_that_was_taken_over_writes_no_more(engine, url):
    first, second = watch_changes(create_engine_for(url)), watch_changes(create_engine_for(url))
    first.lock_host(1, "here")
    with transaction(engine) as connection:
        owner = hosts.claim_host(connection, 1)
        hosts.require_owner(connection, 1, owner)
    end_host_session(engine)
    second.lock_host(1, "here")
    with transaction(engine) as connection:
        hosts.require_owner(connection, 1, owner)  # The second daemon has written nothing yet.
    with transaction(engine) as connection:
        hosts.claim_host(connection, 1)
    eventually(lambda: not regains_host(first))
    for _ in range(3):
        assert not regains_host(first)
        with pytest.raises(OwnershipError, match="taken over"), transaction(engine) as connection:
            hosts.require_owner(connection, 1, owner)
    first.close()
    second.close()


@ON_POSTGRESQL
def test_claim_waits_for_a_write_that_was_verified(engine, url):
    with transaction(engine) as connection:
        owner = hosts.claim_host(connection, 1)
    impatient = open_record(url, busy_seconds=0.1)
    with transaction(engine) as connection:
        hosts.require_owner(connection, 1, owner)
        with pytest.raises(RecordError, match="locked by another program"), transaction(impatient) as other:
            hosts.claim_host(other, 1)


@ON_POSTGRESQL
def test_watermark_waits_for_earlier_open_events(engine, search_factory):
    search_factory()
    watermark, followed = EventWatermark(), []

    def follow():
        until = watermark.advance(engine)
        with read_transaction(engine) as connection:
            rows = list_events(connection, limit=1000, after=followed[-1][0] if followed else 0, until=until)
        followed.extend((event.id, event.kind) for event in rows)

    follow()
    before = list(followed)
    assert before
    with transaction(engine) as early:
        events.record_event(early, 1.0, "first")
        with transaction(engine) as late:
            events.record_event(late, 1.0, "second")
        follow()
        with read_transaction(engine) as connection:
            assert list_events(connection, limit=1)[0].kind == "second"
        assert followed == before
    for _ in range(2):
        follow()
    assert [kind for _, kind in followed[len(before) :]] == ["first", "second"]


@ON_POSTGRESQL
def test_watermark_advances_under_constant_writes(engine):
    watermark, seen = EventWatermark(), []
    with ExitStack() as open_transactions:
        for number in range(8):
            with ExitStack() as last:
                connection = last.enter_context(transaction(engine))
                events.record_event(connection, 1.0, f"number {number}")
                seen.append(watermark.advance(engine))
                open_transactions.close()
                open_transactions.push(last.pop_all())
        assert seen == sorted(seen)
        assert seen[-1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "nowhere"}, "does not exist"),
        ({"username": "nobody"}, "rejects this user"),
        ({"query": {"host": "/nowhere"}}, "the connection to "),
        ({"query": {}, "host": "127.0.0.1", "port": 1}, "the connection to "),
        ({}, "holds no eatnas-db record; run `eatnas-db init` to create one"),
    ],
)
@ON_POSTGRESQL
def test_connection_error_hides_the_password(url, change, message):
    address = create_engine_for(url).url.set(password="secret", **change)
    with pytest.raises(RecordError, match=message) as raised:
        open_record(address.render_as_string(hide_password=False))
    assert "secret" not in str(raised.value)


def test_wrong_password_is_reported(new_server):
    server = new_server()
    server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    server.demand_passwords("guarded")
    url = server.url().replace("postgres:@", "guarded:{}@")
    with pytest.raises(RecordError, match="no eatnas-db record"):
        open_record(url.format("right"))
    with pytest.raises(RecordError, match="check the user name and password") as raised:
        open_record(url.format("wrong"))
    assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("url", ["mysql+pymysql://u:secret@h/d", "mariadb://u:secret@h/d", "oracle://u:secret@h"])
def test_unsupported_database_is_refused(url):
    with pytest.raises(RecordError, match="not supported; use PostgreSQL") as raised:
        load_settings({"EATNAS_DB_URL": url})
    assert "secret" not in str(raised.value)
    with pytest.raises(RecordError, match="not supported; use PostgreSQL") as raised:
        create_engine_for(url)
    assert "secret" not in str(raised.value)
