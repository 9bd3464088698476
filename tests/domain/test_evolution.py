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


def members(*values: float) -> list[Member]:
    return [
        Member(candidate_id=100 + n, birth=n, joined=n + 1, fitness=value, code=CODES[n])
        for n, value in enumerate(values)
    ]


def decide(number: int, population: list[Member], is_held=lambda _: False, seed: int = 0):
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
def test_tournament_equals_order_by_with_offset(seed, values, size):
    population = members(*values)
    winner = run_tournament(population, size, KeyedRng(seed, "tournament"))
    rank = min(KeyedRng(seed, "tournament").sample(len(values), min(size, len(values))))
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE members (birth, fitness)")
    database.executemany("INSERT INTO members VALUES (?, ?)", [(m.birth, m.fitness) for m in population])
    (birth,) = database.execute(
        "SELECT birth FROM members ORDER BY fitness DESC, birth LIMIT 1 OFFSET ?", (rank,)
    ).fetchone()
    database.close()
    assert winner.birth == birth


@given(seeds)
def test_fittest_wins_and_ties_go_to_the_older(seed):
    assert run_tournament(members(0.2, 0.9, 0.9, 0.1), 4, KeyedRng(seed, "t")).birth == 1


def test_nothing_is_removed_within_the_limit():
    for removal in ("oldest", "worst", "mixed"):
        assert select_removed(members(0.1, 0.2), 2, removal, seed=0, step=3) is None


def test_oldest_removal_ignores_fitness():
    assert select_removed(members(0.9, 0.1, 0.5)[::-1], 2, "oldest", seed=0, step=3).birth == 0


def test_worst_removal_breaks_ties_against_the_younger():
    assert select_removed(members(0.9, 0.1, 0.1), 2, "worst", seed=0, step=3).birth == 2


def test_mixed_removal_is_random_and_repeatable():
    removed = [select_removed(members(0.9, 0.1, 0.5), 2, "mixed", seed=0, step=n).birth for n in range(200)]
    assert set(removed) == {0, 1}
    assert 60 < removed.count(0) < 140
    assert removed == [select_removed(members(0.9, 0.1, 0.5), 2, "mixed", seed=0, step=n).birth for n in range(200)]


@given(fitnesses)
def test_summary_agrees_with_the_statistics_module(values):
    summary = summarize(values)
    assert (summary.size, summary.best) == (len(values), max(values))
    assert math.isclose(summary.mean, statistics.fmean(values))
    assert math.isclose(summary.spread, statistics.pstdev(values), abs_tol=1e-9)
    assert summary.quality == summary.mean - summary.spread / math.sqrt(summary.size)


@given(fitnesses, st.randoms(use_true_random=False))
def test_summary_is_independent_of_order(values, random):
    shuffled = random.sample(values, len(values))
    assert summarize(shuffled) == summarize(values)


def test_summary_of_an_empty_population():
    assert summarize([]) == PopulationSummary(0, None, None, None, None)


def test_first_births_are_random_samples():
    birth = decide(3, members(0.5))
    assert (birth.number, birth.origin, birth.parent_id) == (3, Origin.RANDOM, None)


def test_later_birth_is_a_mutation_of_a_member():
    population = members(0.1, 0.5, 0.9)
    birth = decide(4, population)
    parent = next(member for member in population if member.candidate_id == birth.parent_id)
    change = birth.proposal.changes[0]
    assert birth.origin is Origin.MUTATION
    before = Architecture.parse(parent.code).blocks[change.block - 1]
    assert getattr(before, change.primitive) == change.before


@given(seeds, st.integers(4, 1000))
def test_birth_is_independent_of_the_order_of_members(seed, number):
    population = members(0.1, 0.5, 0.9, 0.5)
    assert decide(number, population, seed=seed) == decide(number, population[::-1], seed=seed)


def test_empty_population_gives_a_random_sample():
    assert decide(9, []).origin is Origin.RANDOM


def test_parent_without_free_neighbour_is_replaced():
    population = members(0.9, 0.1)
    first = Architecture.parse(population[0].code)
    held: set[str] = set()
    while True:
        birth = decide(4, population, held.__contains__)
        if birth.parent_id != population[0].candidate_id:
            break
        held.add(birth.proposal.digest)
    assert birth.parent_id == population[1].candidate_id
    assert SPACE.propose(first).digest not in held or len(held) > 1


def test_random_sample_when_every_neighbour_is_held():
    population = members(0.9)
    neighbours: set[str] = set()
    while (birth := decide(4, population, neighbours.__contains__)).origin is Origin.MUTATION:
        neighbours.add(birth.proposal.digest)
    assert birth.origin is Origin.RANDOM
    assert birth.parent_id is None


def test_fitness_is_accuracy_without_a_target():
    assert fitness(0.5, 1000) == 0.5
    assert fitness(0.5, 1000, 1000, -0.07) == 0.5


@pytest.mark.parametrize(("mult_adds", "better"), [(500, True), (2000, False)])
def test_target_rewards_cheap_networks(mult_adds, better):
    assert (fitness(0.5, mult_adds, 1000, -0.07) > 0.5) == better


def test_quality_is_flat_after_enough_steps_without_a_rise():
    plateau, ends = None, []
    # Quality first rises in steps smaller than the threshold, and then does not rise at all.
    for step, quality in enumerate([0.5, 0.506, 0.512, None, 0.509, 0.518, *[0.52] * 20], start=4):
        plateau = update_plateau(plateau, step, quality, 0.01)
        ends.append(is_flat(plateau, step, population=4, flat_steps=5))
    assert plateau is not None
    assert (plateau.mark, plateau.since) == (0.512, 6)
    assert ends.index(True) + 4 == 11
    assert not is_flat(plateau, 19, population=10, flat_steps=5)
    assert is_flat(plateau, 20, population=10, flat_steps=5)


def test_summary_of_enormous_fitness_is_finite():
    summary = summarize([4e189, 2e189, 0.1])
    assert summary.spread == pytest.approx(1.63299e189, rel=1e-4)
    assert math.isfinite(summary.quality)
