"""The front of several objectives on both databases."""

import random

import pytest
from sqlalchemy import event, insert, select

from eatnas_db import transitions
from eatnas_db.database.dialects import select_ids
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.dominance import find_front
from eatnas_db.queries.attempted_candidates import list_attempted
from eatnas_db.queries.large_fronts import find_front_of_many
from eatnas_db.queries.metric_values import list_metric_values
from eatnas_db.queries.objective_front import list_front_ids, list_objective_front, list_objective_values
from eatnas_db.queries.ranking import list_best, list_living, list_to_reevaluate, rank_among
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.scores import Measurement
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retained_fronts import RetainedFronts
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from support.arithmetic_searches import UNDER
from support.databases import ON_SQLITE, POSTGRESQL_IS_SLOW

LATENCY = Measurement("latency_ms", "cpu", "x", 1, 1, 5, median=2.0, low=1.0, high=3.0, quiet=None)
ACCURACIES = (0.5, 0.9, 0.7, 0.9, 0.6, 0.2)
LATENCIES = (1.0, 9.0, 4.0, 9.0, 5.0, 0.5)


def score_with(connection, leased, values):
    transitions.record_score(
        connection,
        leased.token,
        fitness=values[0],
        metrics={"val_accuracy": values[0]},
        seed=1,
        provenance=UNDER,
        device_seconds=1.0,
        now=2.0,
        objectives=values,
        measurements=[LATENCY],
    )


@POSTGRESQL_IS_SLOW
def test_front_holds_the_undominated_candidates(engine, search_factory, lease_factory):
    metrics = [{"metric": "val_accuracy"}, {"metric": "latency_ms"}]
    sizes = {"evolution__population": 6, "evolution__tournament": 2, "evolution__lag": 2, "budget__candidates": 6}
    search_id = search_factory(objective=metrics, **sizes)
    ids = []
    for accuracy, latency in zip(ACCURACIES, LATENCIES, strict=True):
        leased = lease_factory(search_id)
        ids.append(leased.token.candidate)
        with transaction(engine) as connection:
            score_with(connection, leased, (accuracy, latency))
            advance_search(connection, lock_search(connection, search_id), 3.0)
    expected = [
        ids[place] for place in (1, 2, 0, 5)
    ]  # candidate 3 has the values of candidate 1; candidate 4 is dominated
    with transaction(engine) as connection:
        front = list_objective_front(connection, search_id)
        assert [row.id for row in front] == expected
        assert front[0].values == (0.9, 9.0)
        assert [row.id for row in list_best(connection, search_id)] == expected
        assert {row.latency_ms for row in list_attempted(connection, ids)} == {LATENCY.median}
        uncrowded = list_front_ids(connection, search_id)
        assert set(uncrowded[:2]) == {ids[1], ids[5]}
        assert [row.id for row in list_to_reevaluate(connection, search_id, 2)] == [ids[1], ids[5]]
        assert [row.id for row in list_living(connection, search_id)][-1] == ids[4]
        many = [*ids, *range(10**6, 10**6 + 70_000)]  # more ids than a statement may have parameters
        assert {row.id for row in list_objective_values(connection, many)} == set(ids)
        assert set(list_metric_values(connection, many)) == set(ids)
        assert set(connection.execute(select_ids(connection, many)).scalars()) == set(many)
        assert {row.id for row in rank_among(connection, select_ids(connection, many))} == set(ids)


@pytest.mark.parametrize("dimensions", [3, 4])
def test_fast_front_of_many_vectors_equals_the_plain_one(dimensions):
    draw = random.Random(dimensions)
    vectors = [tuple(draw.choice(range(40)) / 8 for _ in range(dimensions)) for _ in range(3000)]
    vectors += [(2.5,) * dimensions, (2**60,) * dimensions, (float(2**60),) * dimensions]

    for some in (vectors[:-2], vectors):
        assert find_front_of_many(some) == find_front(some)


def add_checkpoint(connection, search_id, leased):
    path = f"{search_id}-{leased.birth}.pt"
    file = {"path": path, "attempt": 1, "epoch": 1, "batch": 0, "digest": "d", "bytes": 1, "created_at": 1.0}
    connection.execute(insert(checkpoint).values(candidate_id=leased.token.candidate, **file))


def train_with_checkpoints(engine, search_id):
    """Train a search to its end, with a checkpoint for each candidate."""
    with transaction(engine) as connection:
        for values in VALUES:
            advance_search(connection, lock_search(connection, search_id), 3.0)
            leased = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=1.0)
            score_with(connection, leased, values)
            add_checkpoint(connection, search_id, leased)
        advance_search(connection, lock_search(connection, search_id), 3.0)


@ON_SQLITE
def test_cleanup_reads_only_births_settled_since_the_last_cleanup(engine, search_factory, lease_factory):
    metrics = [{"metric": "val_accuracy"}, {"metric": "latency_ms"}, {"metric": "params"}]
    sizes = {"evolution__population": 4, "evolution__tournament": 2, "evolution__lag": 3, "budget__candidates": 30}
    search_id = search_factory(objective=metrics, **sizes)
    draw, fronts, read = random.Random(1), RetainedFronts(), []
    event.listen(engine, "after_cursor_execute", lambda _1, _2, statement, *_: read.append(statement))
    for birth in range(30):
        leased = lease_factory(search_id)
        with transaction(engine) as connection:
            score_with(connection, leased, tuple(draw.randrange(8) / 8 for _ in range(3)))
            add_checkpoint(connection, search_id, leased)
            advance_search(connection, lock_search(connection, search_id), 3.0)
            drop_unneeded_checkpoints(connection, fronts)
            settled = {search_id: birth + 1}
            assert fronts.list_kept(connection, settled) == RetainedFronts().list_kept(connection, settled)
            read.clear()
            drop_unneeded_checkpoints(connection, fronts)
            assert len(read) == 1
    with transaction(engine) as connection:
        front = set(list_front_ids(connection, search_id))
        assert front <= set(connection.execute(select(checkpoint.c.candidate_id)).scalars())


VALUES = ((0.4, 5.0), (0.5, 1.0), (0.9, 9.0), (0.7, 4.0), (0.6, 6.0), (0.2, 0.5))


@ON_SQLITE
def test_damaged_values_keep_only_the_checkpoints_of_their_search(engine, search_factory, lease_factory):
    metrics = [{"metric": "val_accuracy"}, {"metric": "latency_ms"}]
    sizes = {"evolution__population": 2, "evolution__tournament": 2, "evolution__lag": 2, "budget__candidates": 6}
    damaged, whole = (search_factory(name, objective=metrics, **sizes) for name in ("damaged", "whole"))
    train_with_checkpoints(engine, damaged), train_with_checkpoints(engine, whole)
    with transaction(engine) as connection:
        connection.exec_driver_sql(f"UPDATE eatnas_candidate SET objectives = '[' WHERE search_id = {damaged}")

        assert set(drop_unneeded_checkpoints(connection)) == {f"{whole}-0.pt", f"{whole}-4.pt"}


def test_front_keeps_its_checkpoints(engine, search_factory, lease_factory):
    metrics = [{"metric": "val_accuracy"}, {"metric": "latency_ms"}]
    sizes = {"evolution__population": 2, "evolution__tournament": 2, "evolution__lag": 2, "budget__candidates": 6}
    search_id = search_factory(objective=metrics, **sizes)
    train_with_checkpoints(engine, search_id)
    with transaction(engine) as connection:
        dominated = {f"{search_id}-0.pt", f"{search_id}-4.pt"}
        assert set(drop_unneeded_checkpoints(connection)) == dominated
