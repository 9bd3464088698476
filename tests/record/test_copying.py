"""A record that moves to a server."""

import pytest
from sqlalchemy import select, text

from eatnas_db import training_record, transitions
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.database_copy import copy_record
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.lost_leases import reclaim_leases
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search
from eatnas_migrations import commands

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture
def server(postgres):
    url = postgres.new_database()
    commands.upgrade(create_engine_for(url))
    engine = open_record(url)
    yield engine
    engine.dispose()


@pytest.fixture
def full(engine, search_factory, lease_factory, score_factory):
    """A record with a row in nearly every table; one candidate is in training."""
    search_id = search_factory()
    for _ in range(6):
        leased = lease_factory(search_id)
        token = leased.token
        epoch = training_record.EpochRecord(0, 0.1, 1 / 3, 1e-17, 0.5, 0.1, 1.0, 1.0)
        with transaction(engine) as connection:
            training_record.record_epochs(connection, token, [epoch], 2.0)
            saved = training_record.CheckpointRecord(f"c{token.candidate}.ckpt", "0" * 64, 100_000, 1, 0)
            training_record.record_checkpoint(connection, token, saved, 2.0)
        score_factory(leased, leased.birth / 7)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, search_id), 3.0)
    with transaction(engine) as connection:
        failed = lease_factory_on(connection, search_id)
        transitions.record_failure(connection, failed.token, FailureKind.EXCEPTION, "§ nul \0", now=4.0)
    lease_factory(search_id)
    return engine


def lease_factory_on(connection, search_id):
    return transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=4.0)


def everything(engine):
    with read_transaction(engine) as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table)).all())) for table in metadata.sorted_tables
        }


def test_every_row_comes_over_and_the_search_goes_on_there(full, server):
    told = []
    copied = copy_record(full, server, lambda *figures: told.append(figures))
    assert everything(server) == everything(full)
    assert {one.table: one.rows for one in copied} == {name: len(rows) for name, rows in everything(full).items()}
    assert ("eatnas_candidate", 9, 9) in told
    with transaction(full) as old, transaction(server) as new:
        for connection in (old, new):
            assert reclaim_leases(connection, 1, 5.0) == 1
            leased = lease_factory_on(connection, 1)
            transitions.record_failure(connection, leased.token, FailureKind.DIVERGED, "nan", now=6.0)
            advance_search(connection, lock_search(connection, 1), 7.0)
        assert get_fingerprint(new, 1) == get_fingerprint(old, 1)
        # Ids go on after the copied ones.
        newest = [
            connection.execute(select(candidate.c.id).order_by(candidate.c.id)).scalars().all()[-1]
            for connection in (old, new)
        ]
    assert newest[0] == newest[1]


def test_a_record_that_holds_anything_is_not_written_into(full, server):
    copy_record(full, server)
    before = everything(server)
    with pytest.raises(ConflictError, match="not empty"):
        copy_record(full, server)
    assert everything(server) == before


def test_a_copy_that_does_not_fit_leaves_nothing_behind(full, server):
    with transaction(full) as connection:
        connection.execute(text("UPDATE eatnas_worker SET ending = char(0)"))
    before = everything(server)
    with pytest.raises(RecordError, match="a row of eatnas_worker cannot be stored"):
        copy_record(full, server)
    assert everything(server) == before


def test_a_copy_that_reads_otherwise_is_undone(full, server):
    before = everything(server)
    with server.connect() as connection, connection.begin():
        connection.execute(
            text(
                "CREATE FUNCTION garble() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN NEW.val_loss = NEW.val_loss + 1e-15; RETURN NEW; END'"
            )
        )
        connection.execute(
            text("CREATE TRIGGER garble BEFORE INSERT ON eatnas_epoch FOR EACH ROW EXECUTE FUNCTION garble()")
        )
    with pytest.raises(RecordError, match="the rows of eatnas_epoch changed"):
        copy_record(full, server)
    assert everything(server) == before


def test_a_table_without_rows_is_copied_too(engine, server):
    copy_record(engine, server)
    with transaction(server) as connection:
        connection.execute(event.insert().values(at=1.0, kind="created"))
        assert connection.execute(select(event.c.id)).scalar_one() == 1
        assert connection.execute(select(search)).all() == []
