"""The population after each step, its primitives, and the effect of mutations."""

import pytest

from eatnas_db.errors import NotFoundError
from eatnas_db.queries.mutations import list_mutation_statistics
from eatnas_db.queries.paging import Page
from eatnas_db.queries.population import list_population
from eatnas_db.queries.primitives import PRIMITIVES, list_primitives
from eatnas_db.queries.quality import list_steps
from support.recorded_search import BIRTHS


def test_population_has_the_size_and_best_of_its_step(record, record_connection):
    steps = list_steps(record_connection, record.search_id)
    assert [step.number for step in steps] == list(range(1, BIRTHS + 1))
    for step in steps:
        members = list_population(record_connection, record.search_id, step.number)
        assert (len(members), max(member.fitness for member in members)) == (step.size, step.best)
    last = list_population(record_connection, record.search_id, BIRTHS)
    assert list_population(record_connection, record.search_id) == last
    assert list_population(record_connection, record.search_id, 0) == ()
    with pytest.raises(NotFoundError, match="its steps are 0 to 24"):
        list_population(record_connection, record.search_id, BIRTHS + 1)


def test_steps_are_paged_or_sampled_with_the_last_one(search_factory, train, connection):
    search_id = train(search_factory("s", budget__candidates=7))

    def numbers(*after, **selection):
        return [step.number for step in list_steps(connection, search_id, *after, **selection)]

    assert numbers(page=Page(2, 3)) == [4, 5]
    assert numbers(max_points=3) == [3, 6, 7]
    assert numbers(3, max_points=4) == [4, 6, 7]
    assert numbers(5) == [6, 7]
    assert numbers(max_points=100) == numbers() == [1, 2, 3, 4, 5, 6, 7]


def test_shares_of_primitives_add_up_to_the_population(small, connection):
    rows = list_primitives(connection, small, points=3)
    assert sorted({row.step for row in rows}) == [4, 8, 12]
    for step in (4, 8, 12):
        members = list_population(connection, small, step)
        for block in (1, 7):
            for primitive in PRIMITIVES:
                shares = [row for row in rows if (row.step, row.block, row.primitive) == (step, block, primitive)]
                assert sum(share.members for share in shares) == len(members)
                assert sum(share.share for share in shares) == pytest.approx(1)
                mean = sum(share.members * share.mean_fitness for share in shares) / len(members)
                assert mean == pytest.approx(sum(member.fitness for member in members) / len(members))
    assert list_primitives(connection, small, block=3, points=3) == tuple(row for row in rows if row.block == 3)
    with pytest.raises(NotFoundError, match="no member of the population has a block 99"):
        list_primitives(connection, small, block=99)


def test_mutation_statistics_count_children_and_average_gains(small, connection):
    rows = list_mutation_statistics(connection, small)
    assert sum(row.children for row in rows) == 8
    assert [row.mean_gain for row in rows] == sorted((row.mean_gain for row in rows), reverse=True)
    assert all(row.improved == 1 and row.joined == 1 and row.scored == row.children for row in rows)
    by_block = [row for block in range(1, 8) for row in list_mutation_statistics(connection, small, block)]
    assert sum(row.children for row in by_block) == 8


def test_mutation_statistics_leave_out_perturbations(large, connection):
    assert sum(row.children for row in list_mutation_statistics(connection, large)) == 4
