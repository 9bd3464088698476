import math
import sqlite3
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import (
    Member,
    PopulationSummary,
    decide_birth,
    is_flat,
    run_tournament,
    select_removed,
    summarize,
    update_plateau,
)
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import fitness
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.domain.states import Origin

SPACE = Space(PRESETS["eatnas-tiny"], Task(8, 1, 10))
CODES = [str(SPACE.sample(KeyedRng(0, "member", n), lambda _: False).architecture) for n in range(30)]
seeds = st.integers(0, 2**63 - 1)
fitnesses = st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), min_size=1, max_size=30)


def living(*values: float) -> list[Member]:
    return [
        Member(candidate_id=100 + n, birth=n, joined=n + 1, fitness=value, code=CODES[n])
        for n, value in enumerate(values)
    ]


def born(number: int, population: list[Member], is_held=lambda _: False, seed: int = 0):
    return decide_birth(
        number,
        seed=seed,
        population_size=4,
        tournament_size=2,
        population=population,
        space=SPACE,
        is_held=is_held,
    )


@given(seeds, fitnesses, st.integers(1, 40))
def test_a_tournament_is_one_order_by(seed, values, size):
    population = living(*values)
    winner = run_tournament(population, size, KeyedRng(seed, "tournament"))
    rank = min(KeyedRng(seed, "tournament").sample(len(values), min(size, len(values))))
    record = sqlite3.connect(":memory:")
    record.execute("CREATE TABLE living (birth, fitness)")
    record.executemany("INSERT INTO living VALUES (?, ?)", [(m.birth, m.fitness) for m in population])
    (birth,) = record.execute(
        "SELECT birth FROM living ORDER BY fitness DESC, birth LIMIT 1 OFFSET ?", (rank,)
    ).fetchone()
    record.close()
    assert winner.birth == birth


@given(seeds)
def test_a_tournament_of_everybody_is_won_by_the_fittest_and_of_equals_the_elder(seed):
    assert run_tournament(living(0.2, 0.9, 0.9, 0.1), 4, KeyedRng(seed, "t")).birth == 1


def test_nobody_leaves_a_population_within_its_limit():
    for removal in ("oldest", "worst", "mixed"):
        assert select_removed(living(0.1, 0.2), 2, removal, seed=0, step=3) is None


def test_the_oldest_is_the_first_that_joined_whatever_its_fitness():
    assert select_removed(living(0.9, 0.1, 0.5)[::-1], 2, "oldest", seed=0, step=3).birth == 0


def test_the_worst_is_the_least_fit_and_of_equals_the_younger():
    assert select_removed(living(0.9, 0.1, 0.1), 2, "worst", seed=0, step=3).birth == 2


def test_mixed_tosses_a_coin_for_each_step():
    leavers = [select_removed(living(0.9, 0.1, 0.5), 2, "mixed", seed=0, step=n).birth for n in range(200)]
    assert set(leavers) == {0, 1}
    assert 60 < leavers.count(0) < 140
    assert leavers == [select_removed(living(0.9, 0.1, 0.5), 2, "mixed", seed=0, step=n).birth for n in range(200)]


@given(fitnesses)
def test_a_summary_agrees_with_the_statistics_of_the_standard_library(values):
    summary = summarize(values)
    assert (summary.size, summary.best) == (len(values), max(values))
    assert math.isclose(summary.mean, statistics.fmean(values))
    assert math.isclose(summary.spread, statistics.pstdev(values), abs_tol=1e-9)
    assert summary.quality == summary.mean - summary.spread / math.sqrt(summary.size)


@given(fitnesses, st.randoms(use_true_random=False))
def test_a_summary_does_not_depend_on_the_order_of_rows(values, random):
    shuffled = random.sample(values, len(values))
    assert summarize(shuffled) == summarize(values)


def test_an_empty_population_has_a_summary_too():
    assert summarize([]) == PopulationSummary(0, None, None, None, None)


def test_the_first_births_are_random_samples_whoever_lives():
    birth = born(3, living(0.5))
    assert (birth.number, birth.origin, birth.parent_id) == (3, Origin.RANDOM, None)


def test_a_later_birth_is_a_mutation_of_somebody_alive():
    population = living(0.1, 0.5, 0.9)
    birth = born(4, population)
    parent = next(member for member in population if member.candidate_id == birth.parent_id)
    change = birth.proposal.changes[0]
    assert birth.origin is Origin.MUTATION
    before = Architecture.parse(parent.code).blocks[change.block - 1]
    assert getattr(before, change.primitive) == change.before


@given(seeds, st.integers(4, 1000))
def test_a_birth_is_the_same_in_whatever_order_the_living_are_read(seed, number):
    population = living(0.1, 0.5, 0.9, 0.5)
    assert born(number, population, seed=seed) == born(number, population[::-1], seed=seed)


def test_nobody_alive_gives_a_random_sample():
    assert born(9, []).origin is Origin.RANDOM


def test_a_parent_without_a_free_neighbour_gives_way_to_another():
    population = living(0.9, 0.1)
    first = Architecture.parse(population[0].code)
    taken: set[str] = set()
    while True:
        birth = born(4, population, taken.__contains__)
        if birth.parent_id != population[0].candidate_id:
            break
        taken.add(birth.proposal.digest)
    assert birth.parent_id == population[1].candidate_id
    assert SPACE.propose(first).digest not in taken or len(taken) > 1


def test_when_every_neighbour_is_taken_the_birth_is_a_random_sample():
    population = living(0.9)
    near: set[str] = set()
    while (birth := born(4, population, near.__contains__)).origin is Origin.MUTATION:
        near.add(birth.proposal.digest)
    assert birth.origin is Origin.RANDOM
    assert birth.parent_id is None


def test_fitness_is_the_accuracy_unless_a_target_is_given():
    assert fitness(0.5, 1000) == 0.5
    assert fitness(0.5, 1000, 1000, -0.07) == 0.5


@pytest.mark.parametrize(("mult_adds", "better"), [(500, True), (2000, False)])
def test_a_target_rewards_cheap_networks(mult_adds, better):
    assert (fitness(0.5, mult_adds, 1000, -0.07) > 0.5) == better


def test_quality_is_flat_after_so_many_steps_without_a_rise_and_never_early():
    watch, ends = None, []
    # A slow climb, each time by less than what counts, then nothing more.
    for step, quality in enumerate([0.5, 0.506, 0.512, None, 0.509, 0.518, *[0.52] * 20], start=4):
        watch = update_plateau(watch, step, quality, 0.01)
        ends.append(is_flat(watch, step, population=4, flat_steps=5))
    assert watch is not None
    assert (watch.mark, watch.since) == (0.512, 6)
    assert ends.index(True) + 4 == 11
    assert not is_flat(watch, 19, population=10, flat_steps=5)
    assert is_flat(watch, 20, population=10, flat_steps=5)
