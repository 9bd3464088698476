"""Final models that start from the weights of other final models: the choice of weights, and how long they are kept."""

import re

import pytest
from sqlalchemy import delete, insert, select

from eatnas_db.checkpoint_files import checkpoint_folder
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.disk_cleanup import free_disk_space
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.provenance import Provenance
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.events import list_events
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.delete import delete_search, require_deletable
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_final_training
from eatnas_db.settings import load_settings
from eatnas_db.transitions import record_score
from eatnas_db.unchanged_files import UnchangedFiles
from support.databases import ON_SQLITE

UNDER = Provenance("p", {}, "data", {}, "cpu", "none")
DIGEST = "d" * 64


@pytest.fixture
def searches(engine, search_factory, lease_factory, score_factory):
    """Run the searches `a` and `b`, which have the same architectures and whose last candidates are the best."""
    ids = []
    for name in ("a", "b"):
        ids.append(search_factory(name, budget__candidates=4))
        while (leased := lease_factory(ids[-1])) is not None:
            score_factory(leased, leased.token.candidate / 100)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, ids[-1]), 3.0)
    return ids


@pytest.fixture
def final(engine):
    def make(name, **options):
        with transaction(engine) as connection:
            return create_final_training(connection, name, **{"now": 5.0, "seeds": 1, **options})

    return make


@pytest.fixture
def train_final_models(engine, lease_factory):
    """Return a function that trains the final models of a search, with a checkpoint after the last epoch, and returns
    their ids.
    """

    def train(name):
        with read_transaction(engine) as connection:
            record = get_search(connection, name)
        ids = []
        while (leased := lease_factory(record.id)) is not None:
            ids.append(leased.token.candidate)
            with transaction(engine) as connection:
                row = {
                    "candidate_id": ids[-1],
                    "path": f"{checkpoint_folder(record.id)}c{ids[-1]}-a1-e40-b0.ckpt",
                    "attempt": 1,
                    "epoch": record.spec["training"]["epochs"],
                    "batch": 0,
                    "digest": DIGEST,
                    "bytes": 10,
                    "created_at": 6.0,
                }
                connection.execute(insert(checkpoint).values(row))
                record_score(
                    connection,
                    leased.token,
                    fitness=0.5,
                    metrics={"test_accuracy": 0.5, "test_loss": 1.0},
                    seed=leased.replica,
                    provenance=UNDER,
                    device_seconds=1.0,
                    now=6.0,
                )
                advance_search(connection, lock_search(connection, record.id), 6.0)
        return ids

    return train


def test_source_is_stored_with_its_digest_and_shown(engine, searches, final, train_final_models):
    models = train_final_models(final("a", seeds=2))
    name = final("b", final={"from": "a"})
    with read_transaction(engine) as connection:
        record = get_search(connection, name)
        own = connection.execute(select(candidate).where(candidate.c.search_id == record.id)).one()
        sources = record.spec["training"]["from"]
        assert sources == {own.code: {"search": "a.final", "candidate": models[0], "digest": DIGEST}}
        assert get_candidate(connection, own.id).weights_from == f"a.final/{models[0]}"
        assert next(entry.weights_from for entry in get_lineage(connection, own.id)) == f"a.final/{models[0]}"
        created = list_events(connection, record.id, kind="created")[0]
    assert f"a.final/{models[0]}" in created.words


@ON_SQLITE
@pytest.mark.parametrize("reference", ["a", "a.final", "a/{model}", "a.final/{model}", "a/4"])
def test_source_is_found_by_search_model_or_candidate(engine, searches, final, train_final_models, reference):
    (model,) = train_final_models(final("a"))
    name = final("b", final={"from": reference.format(model=model)})
    with read_transaction(engine) as connection:
        (source,) = get_search(connection, name).spec["training"]["from"].values()
    assert source["candidate"] == model


@ON_SQLITE
def test_spec_names_the_source_and_none_overrides_it(
    engine, searches, search_factory, lease_factory, score_factory, final, train_final_models
):
    train_final_models(final("a"))
    third = search_factory("c", budget__candidates=4, final__from="a")
    while (leased := lease_factory(third)) is not None:
        score_factory(leased, leased.token.candidate / 100)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, third), 3.0)
    names = final("c"), final("c", final={"from": "none"})
    with read_transaction(engine) as connection:
        recipes = [get_search(connection, name).spec["training"] for name in names]
    assert ["from" in recipe for recipe in recipes] == [True, False]


@ON_SQLITE
def test_other_source_is_another_recipe(engine, searches, final, train_final_models):
    (model,) = train_final_models(final("a"))
    train_final_models(final("b"))
    train_final_models(final("b", final={"from": "a"}))  # allowed, because the recipe differs from the tested recipe
    with read_transaction(engine) as connection:
        best = list_best(connection, searches[1], 1)[0]
    assert (best.test_seeds, best.test_weights_from) == (1, f"a.final/{model}")
    with pytest.raises(ConflictError, match="already tested with this recipe"):
        final("b", final={"from": "a"})


def refused(make, message, kind=ConflictError, **options):
    with pytest.raises(kind, match=message) as raised:
        make("b", **options)
    assert "\n" not in str(raised.value)


@ON_SQLITE
def test_unusable_source_is_refused_in_one_line(engine, searches, search_factory, final, train_final_models):
    refused(final, "no search named 'missing'", NotFoundError, final={"from": "missing"})
    refused(final, "search 'a' has no final models; `eatnas-db search final a`", NotFoundError, final={"from": "a"})
    name = final("a")
    refused(final, re.escape("is not trained (pending); run `eatnas-db run a.final`"), final={"from": "a"})
    (model,) = train_final_models(name)
    refused(final, "candidate 7 is not a final model of search 'a'", NotFoundError, final={"from": "a/7"})
    refused(final, "has the architecture of candidate 6, ", final={"from": "a"}, candidate_ids=[6])
    search_factory("large", space="eatnas-small")
    with transaction(engine) as connection:
        of_large = select(candidate.c.id).join(search).where(search.c.name == "large")
        first = connection.execute(of_large).scalars().first()
    with pytest.raises(ConflictError, match="'a' has the space eatnas-tiny and not eatnas-small"):
        final("large", final={"from": "a"}, candidate_ids=[first])
    with transaction(engine) as connection:
        connection.execute(delete(checkpoint))
    refused(final, rf"the last checkpoint of the final model {model} of 'a' was deleted", final={"from": "a"})
    with read_transaction(engine) as connection, pytest.raises(NotFoundError):
        get_search(connection, "b.final")


def test_source_is_kept_until_the_final_models_are_trained(engine, searches, final, train_final_models, tmp_path):
    (model,) = train_final_models(final("a"))
    name = final("b", final={"from": "a"})
    settings = load_settings({}, str(tmp_path / "home"))
    with read_transaction(engine) as connection:
        path = connection.execute(select(checkpoint.c.path)).scalar_one()
        with pytest.raises(ConflictError, match=rf"b\.final starts from the weights of its candidate {model}"):
            require_deletable(connection, "a.final")
    file = settings.artifacts / path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 10)

    def free(limit=1):
        free_disk_space(engine, settings, limit, UnchangedFiles(), monotonic=1e6, wall=7.0)

    free()
    assert file.exists()
    train_final_models(name)
    free()
    assert not file.exists()
    with transaction(engine) as connection:
        delete_search(connection, "a.final", 8.0)
        own = connection.execute(select(candidate.c.id).order_by(candidate.c.id.desc())).scalars().first()
        # the recipe still names the deleted model
        assert get_candidate(connection, own).weights_from == f"a.final/{model}"
