"""Copying a record to a PostgreSQL server."""

import pytest
from sqlalchemy import select, text

from eatnas_db import training_record, transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.database_copy import copy_record
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.lost_leases import reclaim_leases
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.delete import delete_search
from eatnas_db.searches.locking import lock_search
from support.arithmetic_searches import SIZES, tree
from support.databases import ON_SQLITE
from support.empty_records import create_empty_record

pytestmark = ON_SQLITE


@pytest.fixture
def server(postgres_record_url):
    engine = open_record(postgres_record_url)
    yield engine
    engine.dispose()


@pytest.fixture
def filled(engine, search_factory, lease_factory, score_factory):
    """Return a record with rows in nearly every table, among them a leased candidate."""
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
        failed = lease_on(connection, search_id)
        transitions.record_failure(connection, failed.token, FailureKind.EXCEPTION, "§ nul \0", now=4.0)
    lease_factory(search_id)
    return engine


def lease_on(connection, search_id):
    return transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=4.0)


def all_rows(engine):
    with read_transaction(engine) as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table)).all())) for table in metadata.sorted_tables
        }


def test_copy_holds_every_row_and_continues_the_search(filled, server):
    progress = []
    contents = copy_record(filled, server, lambda *step: progress.append(step))
    assert all_rows(server) == all_rows(filled)
    counts = {name: len(rows) for name, rows in all_rows(filled).items()}
    assert {table.table: table.rows for table in contents} == counts
    assert ("eatnas_candidate", 9, 9) in progress
    with transaction(filled) as old, transaction(server) as new:
        for connection in (old, new):
            assert reclaim_leases(connection, 1, 5.0) == 1
            leased = lease_on(connection, 1)
            transitions.record_failure(connection, leased.token, FailureKind.DIVERGED, "nan", now=6.0)
            advance_search(connection, lock_search(connection, 1), 7.0)
        assert get_fingerprint(new, 1) == get_fingerprint(old, 1)
        # New ids continue after the copied ids.
        newest = [
            connection.execute(select(candidate.c.id).order_by(candidate.c.id)).scalars().all()[-1]
            for connection in (old, new)
        ]
    assert newest[0] == newest[1]


def test_copy_into_a_filled_record_is_refused(filled, server):
    copy_record(filled, server)
    before = all_rows(server)
    with pytest.raises(ConflictError, match="not empty"):
        copy_record(filled, server)
    assert all_rows(server) == before


def test_failed_copy_leaves_the_target_unchanged(filled, server):
    with transaction(filled) as connection:
        connection.execute(text("UPDATE eatnas_worker SET ending = char(0)"))
    before = all_rows(server)
    with pytest.raises(RecordError, match="a row of eatnas_worker cannot be stored"):
        copy_record(filled, server)
    assert all_rows(server) == before


def test_copy_with_changed_rows_is_rolled_back(filled, server):
    before = all_rows(server)
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
        copy_record(filled, server)
    assert all_rows(server) == before


def test_ids_start_at_one_in_an_empty_copied_table(engine, server):
    copy_record(engine, server)
    with transaction(server) as connection:
        connection.execute(event.insert().values(at=1.0, kind="created"))
        assert connection.execute(select(event.c.id)).scalar_one() == 1
        assert connection.execute(select(search)).all() == []


@pytest.mark.slow
@pytest.mark.parametrize("kinds", ["sqlite, sqlite", "sqlite, server", "server, sqlite"])
def test_copy_does_not_give_deleted_ids_again(engine, server, tmp_path, search_factory, kinds):
    """In both records, new ids continue after the ids of the deleted search."""
    deleted_id = search_factory("gone")
    with transaction(engine) as connection:
        deleted = delete_search(connection, "gone", 5.0)
    source = engine
    if kinds.startswith("server"):
        copy_record(engine, server)
        source = server
    target = server
    if kinds.endswith("sqlite"):
        target = create_empty_record(f"sqlite:///{tmp_path / 'copy.db'}")
    copy_record(source, target)
    for record in (engine, target):
        with transaction(record) as connection:
            spec = parse_spec(tree("new"), SIZES)
            create_search(connection, spec, task=Task(8, 1, 10), data_digest="data", slots=1, now=6.0)
            ids = connection.execute(select(candidate.c.id)).scalars().all()
            assert connection.execute(select(search.c.id)).scalar_one() > deleted_id
            assert min(ids) > max(deleted.candidate_ids)
    if target is not server:
        target.dispose()
