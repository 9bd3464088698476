"""Births that are decided before the transaction that inserts them."""

import re

import pytest
from sqlalchemy import select, update

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.guidance.gaussian_process import choose_model
from eatnas_db.guidance.proposals import evaluate_pool, propose
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.scored_births import SELECT_BEST, SELECT_LATEST
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.control import extend_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.open_searches import list_active_searches
from eatnas_db.searches.prepared_births import prepare_births
from support.databases import ON_SQLITE
from support.open_transactions import observed_calls
from support.query_plans import explain_statements

GUIDED = {"evolution__births": "guided", "evolution__population": 12, "budget__candidates": 30, "evolution__lag": 4}


class Prepared:
    """Prepared births of one search, and the requests of a transaction."""

    def __init__(self, births):
        self.births = {birth.inputs.number: birth for birth in births}
        self.missing, self.discarded = [], []

    def take(self, search_id, number):
        if number not in self.births:
            self.missing.append(number)
        return self.births.get(number)

    def discard(self, search_id):
        self.discarded.append(search_id)


@pytest.fixture
def make_search(search_factory, lease_factory, score_factory):
    """Return a function that creates a guided search with eight random births that are scored but not settled."""

    def make(name="s"):
        search_id = search_factory(name, **GUIDED)
        for number in range(8):
            score_factory(lease_factory(search_id), (number * 5 % 8) / 10)
        return search_id

    return make


@pytest.fixture
def search_id(make_search):
    return make_search()


def advance(engine, search_id, prepared=None):
    """Advance the search, and return the codes of its guided births."""
    with transaction(engine) as connection:
        advance_search(connection, lock_search(connection, search_id), 3.0, prepared)
    with read_transaction(engine) as connection:
        query = select(candidate.c.code).join(prediction).where(candidate.c.search_id == search_id)
        return connection.execute(query.order_by(candidate.c.birth)).scalars().all()


def find_search(engine, name):
    with read_transaction(engine) as connection:
        return get_search(connection, name)


def settle_only(engine, search_id):
    assert advance(engine, search_id, Prepared([])) == []


def test_first_guided_birth_reads_births_of_the_same_transaction(engine, search_factory, lease_factory, score_factory):
    sizes = {"evolution__population": 2, "evolution__lag": 2}

    def list_births(name, *, at_once):
        search_id = search_factory(name, **{**GUIDED, **sizes})
        for number in range(4):
            score_factory(lease_factory(search_id), number / 10)
            if number == 1 or not at_once:
                advance(engine, search_id)
        advance(engine, search_id)
        with read_transaction(engine) as connection:
            query = select(candidate.c.birth, candidate.c.code, prediction.c.improvement).join(prediction)
            return connection.execute(query.where(candidate.c.search_id == search_id)).all()

    one_by_one, at_once = list_births("one-by-one", at_once=False), list_births("at-once", at_once=True)
    assert [birth.birth for birth in one_by_one] == [5]
    assert at_once == one_by_one


def test_prepared_births_are_those_of_the_transaction(engine, make_search):
    search_id, other_id = make_search("prepared"), make_search("decided")
    settle_only(engine, search_id)
    births = prepare_births(engine, search_id)
    assert [birth.inputs.number for birth in births] == [8, 9, 10, 11]
    inserted = advance(engine, search_id, Prepared(births))
    assert inserted == [str(birth.birth.proposal.architecture) for birth in births]
    assert advance(engine, other_id) == inserted


@ON_SQLITE
def test_transaction_never_decides_by_the_model_itself(engine, search_id):
    prepared = Prepared([])
    assert advance(engine, search_id, prepared) == []
    assert prepared.missing == [8]


@ON_SQLITE
def test_births_prepared_from_other_scores_are_discarded(engine, search_id):
    settle_only(engine, search_id)
    births = prepare_births(engine, search_id)
    with transaction(engine) as connection:
        connection.execute(update(candidate).where(candidate.c.birth == 2).values(fitness=0.99))
    prepared = Prepared(births)
    assert advance(engine, search_id, prepared) == []
    assert prepared.discarded == [search_id]
    assert [birth.inputs.number for birth in prepare_births(engine, search_id)] == [8, 9, 10, 11]


@ON_SQLITE
def test_extension_leaves_births_by_the_model_to_the_daemon(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory(**{**GUIDED, "budget__candidates": 8})
    for number in range(8):
        score_factory(lease_factory(search_id), (number * 5 % 8) / 10)
    assert advance(engine, search_id) == []
    with transaction(engine) as connection:
        extend_search(connection, "s", candidates=22, now=4.0)
    assert find_search(engine, "s").born == 8
    births = prepare_births(engine, search_id)
    assert [birth.inputs.number for birth in births] == [8, 9, 10, 11]
    assert len(advance(engine, search_id, Prepared(births))) == 4


def test_no_transaction_is_open_while_the_model_decides(engine, search_id):
    settle_only(engine, search_id)
    with observed_calls(engine, choose_model, evaluate_pool, propose) as calls:
        births = prepare_births(engine, search_id)
    assert len(births) == 4
    assert {name for name, _ in calls} == {"choose_model", "evaluate_pool", "propose"}
    assert {open_transactions for _, open_transactions in calls} == {0}


@ON_SQLITE
def test_births_of_a_deleted_search_are_not_prepared(engine, search_id):
    assert prepare_births(engine, search_id + 1) == ()


@ON_SQLITE
def test_guided_search_is_idle_while_no_birth_can_be_decided(engine, search_factory):
    search_factory(**GUIDED)
    with read_transaction(engine) as connection:
        assert list_active_searches(connection, None, stopping=(), held=()) == ()


@pytest.mark.parametrize(
    ("query", "index"), [(SELECT_LATEST, "uq_eatnas_candidate_birth"), (SELECT_BEST, "candidate_fitness")]
)
def test_scored_births_are_read_in_the_order_of_an_index(engine, search_id, query, index):
    with read_transaction(engine) as connection:
        parameters = {"search_id": search_id, "before": 8}
        (plan,) = explain_statements(connection, lambda: connection.execute(query, parameters))
    assert index in plan
    assert not re.search("TEMP B-TREE|Sort", plan)
