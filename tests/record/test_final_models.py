"""Final models: the tested candidates, their recipe, and the number of evaluations on the test part."""

import pytest
from sqlalchemy import select

from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.integrity.check import list_violations
from eatnas_db.provenance import Provenance
from eatnas_db.queries.events import list_events
from eatnas_db.queries.final_models import count_test_evaluations
from eatnas_db.queries.ranking import get_best, list_best
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.control import extend_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_final_training, create_reevaluation
from eatnas_db.transitions import record_failure, record_score
from support.databases import ON_SQLITE

UNDER = Provenance("p", {}, "data", {}, "cpu", "none")


@pytest.fixture
def small(engine, search_factory, lease_factory, score_factory):
    """Run a search to its end, and return its id. The candidate with the highest id has the best fitness."""
    search_id = search_factory("small")
    while (leased := lease_factory(search_id)) is not None:
        score_factory(leased, leased.token.candidate / 100)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, search_id), 3.0)
    return search_id


@pytest.fixture
def final(engine):
    def make(name="small", **options):
        with transaction(engine) as connection:
            return create_final_training(connection, name, **{"now": 5.0, **options})

    return make


@pytest.fixture
def run_final_search(engine, lease_factory):
    """Return a function that runs a search of final models to its end, with given test accuracies in order."""

    def run_search(name, accuracies):
        with transaction(engine) as connection:
            search_id = get_search(connection, name).id
        for accuracy in accuracies:
            leased = lease_factory(search_id)
            with transaction(engine) as connection:
                record_score(
                    connection,
                    leased.token,
                    fitness=accuracy,
                    metrics={"test_accuracy": accuracy, "test_loss": 1.0},
                    seed=leased.replica,
                    provenance=UNDER,
                    device_seconds=1.0,
                    now=6.0,
                )
                advance_search(connection, lock_search(connection, search_id), 6.0)
        assert lease_factory(search_id) is None

    return run_search


def births(engine, name):
    with transaction(engine) as connection:
        columns = (candidate.c.parent_id, candidate.c.replica, candidate.c.origin)
        is_in_search = candidate.c.search_id == get_search(connection, name).id
        return connection.execute(select(*columns).where(is_in_search).order_by(candidate.c.birth)).all()


def test_winner_is_tested_with_a_longer_recipe(engine, small, final, run_final_search, tmp_path):
    name = final()
    with transaction(engine) as connection:
        row, source, winner = (
            get_search(connection, name),
            get_search(connection, "small"),
            get_best(connection, small),
        )
        before = list_best(connection, small, 3)
    assert (name, row.kind, row.source_id, row.born) == ("small.final", "final", small, 3)
    assert row.spec["training"] == {**source.spec["training"], "epochs": 4 * source.spec["training"]["epochs"]}
    assert births(engine, name) == [(winner.id, replica, "final") for replica in (1, 2, 3)]
    run_final_search(name, [0.1, 0.2, 0.3])
    with transaction(engine) as connection:
        after = list_best(connection, small, 3)
        assert (count_test_evaluations(connection, small), count_test_evaluations(connection, row.id)) == (3, 3)
        messages = [event.words for event in list_events(connection, row.id, kind="tested")]
        assert get_search(connection, name).status == "finished"
    assert messages[0] == "attempt 1 was evaluated once on the test part: accuracy 0.1000"
    assert len(messages) == 3
    assert (after[0].test, after[0].test_spread, after[0].test_seeds) == (
        pytest.approx(0.2),
        pytest.approx(0.1),
        3,
    )
    # A low test accuracy must not change the ranking, because a search must not depend on the test part.
    assert [ranked.id for ranked in after] == [ranked.id for ranked in before]
    assert after[1].test is None
    # These trainings report no epochs; all other invariants hold.
    violations = {violation.invariant for violation in list_violations(engine, tmp_path)}
    assert not {invariant for invariant in violations if not invariant.startswith("epochs")}


def test_reevaluation_decides_the_winners(engine, small, final, lease_factory, score_factory):
    with transaction(engine) as connection:
        reevaluation = get_search(connection, create_reevaluation(connection, "small", top=2, seeds=1, now=5.0)).id
    with pytest.raises(ConflictError, match=r"small\.reevaluation.* is not finished"):
        final()
    measured = []
    while (leased := lease_factory(reevaluation)) is not None:
        measured.append(leased.parent_id)
        score_factory(leased, 0.3 + 0.1 * len(measured))
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, reevaluation), 5.0)
    name = final(top=3, seeds=1, epochs=2)
    assert [parent for parent, _, _ in births(engine, name)] == [measured[1], measured[0], 10]


@ON_SQLITE
@pytest.mark.parametrize("kind", ["final", "reevaluation"])
def test_damaged_search_does_not_hide_the_best_of_its_source(
    engine, small, final, run_final_search, lease_factory, score_factory, kind
):
    if kind == "final":
        run_final_search(final(seeds=1), [0.7])
    else:
        with transaction(engine) as connection:
            reevaluation = get_search(connection, create_reevaluation(connection, "small", top=1, seeds=1, now=5.0)).id
        score_factory(lease_factory(reevaluation), 0.4)
    with transaction(engine) as connection:
        best = get_best(connection, small)
        assert (best.test, best.reevaluation) == ((0.7, None) if kind == "final" else (None, 0.4))
        connection.exec_driver_sql(f"UPDATE eatnas_search SET spec = '{{' WHERE name = 'small.{kind}'")
        best = get_best(connection, small)
        assert (best.test, best.reevaluation) == (None, None)


def test_second_test_requires_the_option_again_and_uses_fresh_seeds(
    engine, small, final, run_final_search, lease_factory
):
    run_final_search(final(seeds=2), [0.5, 0.7])
    with pytest.raises(ConflictError, match=r"candidate 12 is already tested with this recipe in 'small\.final'"):
        final()
    run_final_search(final(epochs=1, seeds=1), [0.3])
    with transaction(engine) as connection:  # an average covers only models of the same recipe
        assert list_best(connection, small, 1)[0].test == pytest.approx(0.3)
    name = final(seeds=1, again=True)
    assert births(engine, name) == [(12, 3, "final")]
    run_final_search(name, [0.9])
    with transaction(engine) as connection:
        assert list_best(connection, small, 1)[0].test == pytest.approx(0.7)
        assert count_test_evaluations(connection, small) == 4
    # A model that failed does not count as tested.
    failed = final(candidate_ids=[11, 11], seeds=1)
    with transaction(engine) as connection:
        failed_id = get_search(connection, failed).id
    leased = lease_factory(failed_id)
    with transaction(engine) as connection:
        record_failure(connection, leased.token, FailureKind.DIVERGED, "", now=7.0)
    assert births(engine, final(candidate_ids=[11], seeds=1))[0].parent_id == 11


@ON_SQLITE
def test_invalid_final_trainings_are_refused(engine, small, final, search_factory):
    search_factory("open")
    with pytest.raises(ConflictError, match=r"'open' is not finished .*--candidate"):
        final("open")
    with pytest.raises(NotFoundError, match="no candidate 99"):
        final(candidate_ids=[99])
    name = final()
    for create in (
        lambda connection: create_final_training(connection, name, now=6.0),
        lambda connection: create_reevaluation(connection, name, top=1, seeds=1, now=6.0),
        lambda connection: extend_search(connection, name, candidates=1, now=6.0),
    ):
        with (
            transaction(engine) as connection,
            pytest.raises(ConflictError, match="measures candidates of another search"),
        ):
            create(connection)
