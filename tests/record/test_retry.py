"""Retries of failed candidates never change settled births."""

import json

import pytest
from sqlalchemy import select

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import DesiredState, FailureKind
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.population import list_population
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.control import extend_search, set_desired_state
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.retry import retry_candidates
from eatnas_db.transitions import record_failure
from support.databases import ON_SQLITE

PAIR = {"evolution__population": 2, "evolution__lag": 2, "budget__candidates": 2}


def fail(engine, leased):
    with transaction(engine) as connection:
        record_failure(connection, leased.token, FailureKind.DIVERGED, "", now=2.0)
    return leased.token.candidate


def retry(engine, *candidate_ids):
    with transaction(engine) as connection:
        return retry_candidates(connection, candidate_ids, 3.0)


def find_search(engine, name):
    with read_transaction(engine) as connection:
        return get_search(connection, name)


def advance(engine, search_id):
    with transaction(engine) as connection:
        return advance_search(connection, lock_search(connection, search_id), 4.0)


def list_details(engine, kind):
    with read_transaction(engine) as connection:
        rows = connection.execute(select(event.c.detail).where(event.c.kind == kind).order_by(event.c.id))
        return [json.loads(detail) for (detail,) in rows]


@pytest.mark.parametrize("settled", [False, True])
def test_a_retry_leaves_the_history_of_its_search(engine, search_factory, lease_factory, score_factory, settled):
    search_id = search_factory(**PAIR)
    failed = fail(engine, lease_factory(search_id))
    score_factory(lease_factory(search_id), 0.5)
    if settled:
        assert advance(engine, search_id)
    with read_transaction(engine) as connection:
        before = get_fingerprint(connection, search_id)
    (made,) = retry(engine, failed)
    score_factory(lease_factory(find_search(engine, made.search).id), 0.75)
    with read_transaction(engine) as connection:
        assert get_fingerprint(connection, search_id) == before
        row = connection.execute(select(candidate).where(candidate.c.id == made.retry_id)).one()
    assert (row.parent_id, row.origin, row.replica, row.state) == (failed, "retry", 1, "scored")
    assert list_details(engine, "retried") == [{"retry": made.retry_id, "search": "s.retry", "birth": 0}]


def test_retries_share_one_search_which_continues(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory()
    first, second = (fail(engine, lease_factory(search_id)) for _ in range(2))
    (made,) = retry(engine, first)
    retry_id = find_search(engine, "s.retry").id
    score_factory(lease_factory(retry_id), 0.5)
    assert advance(engine, retry_id)
    assert retry(engine, second)[0].search == made.search == "s.retry"
    record = find_search(engine, "s.retry")
    assert (record.status, record.budget_candidates, record.born) == ("running", 2, 2)
    score_factory(lease_factory(retry_id), 0.25)
    assert advance(engine, retry_id)
    with read_transaction(engine) as connection:
        assert [member.fitness for member in list_population(connection, retry_id)] == [0.5, 0.25]


def test_a_candidate_is_retried_once_and_its_failed_retry_again(engine, search_factory, lease_factory):
    search_id = search_factory()
    failed = fail(engine, lease_factory(search_id))
    (made,) = retry(engine, failed)
    with pytest.raises(ConflictError, match=f"candidate {made.retry_id} already retries it"):
        retry(engine, failed)
    fail(engine, lease_factory(find_search(engine, "s.retry").id))
    (second,) = retry(engine, made.retry_id)
    with read_transaction(engine) as connection:
        row = connection.execute(select(candidate).where(candidate.c.id == second.retry_id)).one()
    assert (row.parent_id, row.replica, second.search) == (failed, 2, "s.retry")


@ON_SQLITE
def test_a_cancelled_retry_can_be_repeated(engine, search_factory, lease_factory):
    search_id = search_factory()
    failed = fail(engine, lease_factory(search_id))
    (first,) = retry(engine, failed)
    with transaction(engine) as connection:
        set_desired_state(connection, "s.retry", DesiredState.CANCELLED, 3.0)
    (second,) = retry(engine, failed)
    assert second.retry_id != first.retry_id


@ON_SQLITE
def test_a_retry_needs_a_search_that_is_not_paused(engine, search_factory, lease_factory):
    search_id = search_factory()
    first, second = (fail(engine, lease_factory(search_id)) for _ in range(2))
    retry(engine, first)
    with transaction(engine) as connection:
        set_desired_state(connection, "s.retry", DesiredState.PAUSED, 3.0)
    with pytest.raises(ConflictError, match=r"run `eatnas-db search resume s\.retry` first"):
        retry(engine, second)


@ON_SQLITE
def test_only_failed_candidates_of_living_searches_are_retried(engine, search_factory, lease_factory):
    search_id = search_factory()
    failed = fail(engine, lease_factory(search_id))
    with pytest.raises(ConflictError, match="has not failed but is pending"):
        retry(engine, failed, failed + 1)
    with pytest.raises(NotFoundError, match="no candidate 999"):
        retry(engine, 999)
    with transaction(engine) as connection:
        set_desired_state(connection, "s", DesiredState.CANCELLED, 3.0)
    with pytest.raises(ConflictError, match="is cancelled"):
        retry(engine, failed)


def test_a_failed_reevaluation_gets_another_seed(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory(**PAIR)
    for _ in range(2):
        score_factory(lease_factory(search_id), 0.5)
    assert advance(engine, search_id)
    with transaction(engine) as connection:
        name = create_reevaluation(connection, "s", top=1, seeds=2, now=3.0)
    reevaluation = find_search(engine, name)
    failed = fail(engine, lease_factory(reevaluation.id))
    (made,) = retry(engine, failed)
    assert made.search == name
    with read_transaction(engine) as connection:
        query = select(candidate.c.replica, candidate.c.origin).where(candidate.c.search_id == reevaluation.id)
        rows = connection.execute(query.order_by(candidate.c.birth)).all()
    assert rows == [(1, "reevaluation"), (2, "reevaluation"), (3, "reevaluation")]


@ON_SQLITE
def test_a_search_without_a_score_fails_and_can_continue(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory(**PAIR)
    failed = [fail(engine, lease_factory(search_id)) for _ in range(2)]
    assert advance(engine, search_id)
    retry(engine, *failed)
    assert advance(engine, search_id)
    record = find_search(engine, "s")
    assert (record.status, record.ended) == ("failed", "none of its candidates has a score")
    retry_id = find_search(engine, "s.retry").id
    for _ in failed:
        score_factory(lease_factory(retry_id), 0.5)
    assert advance(engine, retry_id)
    assert (find_search(engine, "s").status, find_search(engine, "s.retry").status) == ("failed", "finished")
    with transaction(engine) as connection:
        extend_search(connection, "s", candidates=1, now=5.0)
    score_factory(lease_factory(search_id), 0.5)
    assert advance(engine, search_id)
    assert find_search(engine, "s").status == "finished"


@ON_SQLITE
def test_commands_record_their_first_affected_birth(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory(budget__candidates=6)
    score_factory(lease_factory(search_id), 0.5)
    advance(engine, search_id)
    with transaction(engine) as connection:
        extend_search(connection, "s", candidates=4, now=3.0)
    assert list_details(engine, "extended") == [{"candidates": 10, "device_seconds": None, "birth": 6, "step": 1}]
    with transaction(engine) as connection:
        set_desired_state(connection, "s", DesiredState.CANCELLED, 3.0)
    details = list_details(engine, "cancelled")
    born = find_search(engine, "s").born
    assert details[0] == {"birth": born, "step": 1}
    assert [detail["birth"] for detail in details[1:]] == list(range(1, born))


@ON_SQLITE
def test_an_extension_must_give_device_hours_to_spare(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory(budget__device_hours=1 / 3600)
    score_factory(lease_factory(search_id), 0.5)
    assert advance(engine, search_id)
    for hours in (0.0, 1e-9):
        with transaction(engine) as connection:
            if hours:
                assert extend_search(connection, "s", device_hours=hours, now=3.0)[1] > 1
            else:
                with pytest.raises(ConflictError, match="add more with --device-hours"):
                    extend_search(connection, "s", candidates=4, now=3.0)
    assert find_search(engine, "s").status == "running"
