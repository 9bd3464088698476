"""Trained models: the candidate that represents a search, and the recorded facts about its weights."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, insert, select

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.leases import LeasedCandidate
from eatnas_db.provenance import Provenance
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search
from eatnas_db.queries.trained_models import find_best_model, get_trained_model
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.retrain import create_final_training
from eatnas_db.transitions import record_score
from support.databases import ON_SQLITE

UNDER = Provenance("final", {"epochs": 4, "precision": "float32"}, "data", {"torch": "2"}, "cpu", "none")


@pytest.fixture
def score_final_models(
    engine: Engine, lease_factory: Callable[[int], LeasedCandidate]
) -> Callable[[str, dict[int, float]], None]:
    """Return a function that scores final models. Its argument maps their seeds to test accuracies."""

    def score(name: str, accuracies: dict[int, float]) -> None:
        with read_transaction(engine) as connection:
            search_id = get_search(connection, name).id
        for _ in accuracies:
            leased = lease_factory(search_id)
            with transaction(engine) as connection:
                record_score(
                    connection,
                    leased.token,
                    fitness=accuracies[leased.replica],
                    metrics={"test_accuracy": accuracies[leased.replica]},
                    seed=leased.replica,
                    provenance=UNDER,
                    device_seconds=1.0,
                    now=6.0,
                )

    return score


def keep_weights(engine: Engine, candidate_id: int) -> None:
    with transaction(engine) as connection:
        row = {"candidate_id": candidate_id, "path": f"checkpoints/1/c{candidate_id}.ckpt", "attempt": 1, "epoch": 4}
        connection.execute(insert(checkpoint).values(**row, batch=0, digest="d" * 64, bytes=9, created_at=1.0))


def final_ids(engine: Engine, name: str) -> dict[int, int]:
    """Return a mapping from seeds to the ids of the final models of a search."""
    with read_transaction(engine) as connection:
        query = select(candidate.c.replica, candidate.c.id)
        rows = connection.execute(query.where(candidate.c.search_id == get_search(connection, name).id))
        return {row.replica: row.id for row in rows}


@ON_SQLITE
def test_best_candidate_stands_for_a_search(engine, search_factory, train):
    search_id = train(search_factory("small"))
    with read_transaction(engine) as connection:
        assert find_best_model(connection, "small") == get_best(connection, search_id).id


@ON_SQLITE
def test_test_accuracy_does_not_choose_the_final_model(engine, search_factory, train, score_final_models):
    search_id = train(search_factory("small"))
    with transaction(engine) as connection:
        best = get_best(connection, search_id).id
        name = create_final_training(connection, "small", candidate_ids=[best - 1, best], seeds=2, now=5.0)
    score_final_models(name, {1: 0.2, 2: 0.9})
    score_final_models(name, {1: 0.1, 2: 0.9})
    with read_transaction(engine) as connection:
        chosen = find_best_model(connection, "small")
        parent = connection.execute(select(candidate).where(candidate.c.id == chosen)).one()
        assert (parent.parent_id, parent.replica) == (best, 1)
        assert find_best_model(connection, name) == chosen


def test_newest_recipe_gives_the_final_model(engine, search_factory, train, score_final_models):
    train(search_factory("small"))
    names = []
    for epochs in (1, 2):
        with transaction(engine) as connection:
            names.append(create_final_training(connection, "small", seeds=1, epochs=epochs, now=5.0))
        score_final_models(names[-1], {1: 0.5})
    with read_transaction(engine) as connection:
        assert find_best_model(connection, "small") == final_ids(engine, names[1])[1]
        assert find_best_model(connection, names[0]) == final_ids(engine, names[0])[1]


def test_model_has_recipe_scores_and_checkpoint(engine, search_factory, train, score_final_models):
    train(search_factory("small"))
    with transaction(engine) as connection:
        name = create_final_training(connection, "small", seeds=1, now=5.0)
    score_final_models(name, {1: 0.5})
    (model_id,) = final_ids(engine, name).values()
    keep_weights(engine, model_id)
    with read_transaction(engine) as connection:
        model = get_trained_model(connection, model_id)
    assert model.is_final
    assert (model.metrics, model.recipe, model.seed) == ({"test_accuracy": 0.5}, UNDER.recipe, 1)
    assert (model.checkpoint, model.host) == (f"checkpoints/1/c{model_id}.ckpt", "here")
    assert [one.search for one in model.lineage][-2:] == ["small", name]
    assert model.data["name"] == "digits"


@ON_SQLITE
def test_error_for_deleted_weights_names_the_remedy(engine, search_factory, train, score_final_models):
    train(search_factory("small"))
    with transaction(engine) as connection:
        name = create_final_training(connection, "small", candidate_ids=[3], seeds=1, now=5.0)
    score_final_models(name, {1: 0.5})
    (model_id,) = final_ids(engine, name).values()
    with read_transaction(engine) as connection:
        with pytest.raises(
            ConflictError, match=r"candidate 2 were deleted.*`eatnas-db search final small --candidate 2`"
        ):
            get_trained_model(connection, 2)
        with pytest.raises(ConflictError, match=r"`eatnas-db search final small --candidate 3 --again`"):
            get_trained_model(connection, model_id)


@ON_SQLITE
def test_untrained_candidate_has_no_model(engine, search_factory, lease_factory):
    search_id = search_factory("small")
    lease_factory(search_id)
    with read_transaction(engine) as connection:
        with pytest.raises(ConflictError, match="candidate 1 has no trained model: it is in training"):
            get_trained_model(connection, 1)
        with pytest.raises(ConflictError, match="2 has no trained model: it is pending; `eatnas-db run small`"):
            get_trained_model(connection, 2)
        with pytest.raises(ConflictError, match="no scored candidate"):
            find_best_model(connection, "small")
        with pytest.raises(NotFoundError):
            get_trained_model(connection, 99)
        with pytest.raises(NotFoundError):
            find_best_model(connection, "smal")
