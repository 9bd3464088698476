"""Cleanups of checkpoints read only what has changed."""

import random

import pytest
from sqlalchemy import event, insert, select, update

from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import FailureKind
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.checkpoint_retention import CheckpointRetention
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_db.transitions import record_failure, record_score
from support.scores import UNDER

SIZES = {"evolution__population": 4, "evolution__tournament": 2, "evolution__lag": 3, "reevaluation__top": 2}
METRICS = ({"metric": "val_accuracy"}, {"metric": "latency_ms"}, {"metric": "params"})


def train(engine, search_id, leased, values):
    """Save a checkpoint, and end the training with scores, or with a failure if `values` is None."""
    with transaction(engine) as connection:
        path = f"{search_id}-{leased.birth}.pt"
        file = {"path": path, "attempt": 1, "epoch": 1, "batch": 0, "digest": "d", "bytes": 1, "created_at": 1.0}
        connection.execute(insert(checkpoint).values(candidate_id=leased.token.candidate, **file))
        if values is None:
            record_failure(connection, leased.token, FailureKind.DIVERGED, "nan", now=2.0)
        else:
            measured = {
                "fitness": values[0],
                "metrics": {"val_accuracy": values[0]},
                "objectives": values[1:] and values,
            }
            options = {"seed": 1, "provenance": UNDER, "device_seconds": 1.0, "now": 2.0}
            record_score(connection, leased.token, **measured, **options)
        advance_search(connection, lock_search(connection, search_id), 3.0)


@pytest.mark.parametrize("metrics", [METRICS[:1], METRICS])
def test_cleanup_of_changes_leaves_nothing_for_a_full_cleanup(engine, search_factory, lease_factory, metrics):
    draw, retention = random.Random(len(metrics)), CheckpointRetention()
    several = {"objective": list(metrics)} if len(metrics) > 1 else {}
    searches = [search_factory(name, **SIZES, **several, budget__candidates=30, seed=ord(name)) for name in "ab"]
    with transaction(engine) as connection:
        assert retention.drop(connection) == []
    trained = 0
    while trained < 70:
        search_id = draw.choice(searches)
        leased = [held for _ in range(draw.randrange(1, 4)) if (held := lease_factory(search_id)) is not None]
        for held in draw.sample(leased, len(leased)):
            values = tuple(draw.randrange(8) / 8 for _ in metrics)
            train(engine, search_id, held, None if draw.random() < 0.1 else values)
            if draw.random() < 0.5:
                with transaction(engine) as connection:
                    retention.drop(connection)
        trained += max(1, len(leased))
    with transaction(engine) as connection:
        retention.drop(connection)
        left = connection.execute(select(checkpoint.c.path)).scalars().all()
        assert drop_unneeded_checkpoints(connection) == []
    assert 4 < len(left) < 40


def test_cleanup_reads_nothing_of_a_search_without_changes(engine, search_factory, lease_factory):
    retention, statements = CheckpointRetention(), []
    search_id = search_factory(**SIZES, budget__candidates=30)
    train(engine, search_id, lease_factory(search_id), (0.5,))
    with transaction(engine) as connection:
        retention.drop(connection)
    event.listen(engine, "after_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with transaction(engine) as connection:
        retention.drop(connection)
    assert len([statement for statement in statements if "checkpoint" in statement or "candidate" in statement]) == 0


def test_forgotten_state_is_read_again(engine, search_factory, lease_factory):
    retention, dropped = CheckpointRetention(), []
    search_id = search_factory(**SIZES, budget__candidates=30)
    with transaction(engine) as connection:
        retention.drop(connection)
    for number in range(12):
        train(engine, search_id, lease_factory(search_id), (number / 20,))

    def drop_and_fail():
        with transaction(engine) as connection:
            dropped.extend(retention.drop(connection))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drop_and_fail()
    retention.forget()
    with transaction(engine) as connection:
        assert sorted(retention.drop(connection)) == sorted(dropped)
    assert len(dropped) > 4


@pytest.mark.parametrize("top", ['"two"', "1e300", "1e999"])
def test_damaged_number_of_kept_candidates_stops_no_cleanup(engine, search_factory, lease_factory, top):
    retention = CheckpointRetention()
    damaged, whole = (search_factory(name, **SIZES, budget__candidates=30) for name in "ab")
    spec = f"jsonb_set(spec::jsonb, '{{reevaluation,top}}', '{top}')::json"
    if engine.dialect.name == "sqlite":
        spec = f"json_set(spec, '$.reevaluation.top', json('{top}'))"
    with transaction(engine) as connection:
        connection.exec_driver_sql(f"UPDATE eatnas_search SET spec = {spec} WHERE id = {damaged}")
        retention.drop(connection)
    for number in range(12):
        for search_id in (damaged, whole):
            train(engine, search_id, lease_factory(search_id), (number / 20,))
    with transaction(engine) as connection:
        dropped = retention.drop(connection)
        assert drop_unneeded_checkpoints(connection) == []
    assert len([path for path in dropped if path.startswith(f"{whole}-")]) > 4


def test_cleanup_after_a_restored_backup_reads_everything(engine, search_factory, lease_factory):
    retention = CheckpointRetention()
    search_id = search_factory(**SIZES, objective=list(METRICS), budget__candidates=30)
    for number in range(12):
        train(engine, search_id, lease_factory(search_id), (number / 20, number / 20, 1.0))
    with transaction(engine) as connection:
        retention.drop(connection)
        connection.execute(update(search).values(settled=1, born=2))  # imitates the restore of an older copy
        retention.drop(connection)
        connection.execute(update(search).values(settled=12, born=14))
        assert retention.drop(connection) == drop_unneeded_checkpoints(connection) == []
