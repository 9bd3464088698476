import itertools
import math

import numpy
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from eatnas_db.domain.dominance import (
    crowding_distances,
    dominates,
    extend_front,
    find_front,
    hypervolume,
    rank_and_crowding,
    sort_into_fronts,
)

NUMBERS = st.one_of(st.integers(0, 6).map(float), st.floats(-1e6, 1e6, allow_subnormal=False))


def vectors(minimum=1):
    """Return a strategy for lists of vectors with two to four objectives. Many of the vectors share values."""
    return st.integers(2, 4).flatmap(lambda size: st.lists(st.tuples(*[NUMBERS] * size), min_size=minimum, max_size=14))


@given(vectors())
def test_fronts_are_peeled_off_one_by_one(points):
    fronts = sort_into_fronts(points)
    remaining = set(range(len(points)))
    for front in fronts:
        beaten = {one for one in remaining if any(dominates(points[other], points[one]) for other in remaining)}
        assert front == sorted(remaining - beaten)
        remaining = beaten
    assert not remaining


@given(vectors())
def test_front_holds_the_first_of_equal_vectors_that_none_dominates(points):
    beaten = {one for one in points if any(dominates(other, one) for other in points)}
    firsts = [place for place, point in enumerate(points) if points.index(point) == place]
    assert find_front(points) == [place for place in firsts if points[place] not in beaten]


@given(vectors(), st.data())
def test_front_can_be_extended_by_later_vectors(points, data):
    split = data.draw(st.integers(0, len(points)))
    places = [*find_front(points[:split]), *(split + place for place in find_front(points[split:]))]
    known = sum(place < split for place in places)
    extended = extend_front([points[place] for place in places], known)
    assert [places[place] for place in extended] == find_front(points)


@given(vectors(3))
@settings(max_examples=40)
def test_ranks_and_crowding_agree_with_pymoo(points):
    points = list(dict.fromkeys(points))  # without copies, for which pymoo also computes distances
    losses = -numpy.array(points)
    fronts = [sorted(map(int, front)) for front in NonDominatedSorting().do(losses)]
    assert fronts == sort_into_fronts(points)
    for front in fronts:
        if len(front) > 2:  # pymoo computes no comparable distances for fewer points
            distances = crowding_distances([points[place] for place in front])
            assert numpy.allclose(calc_crowding_distance(losses[front]), distances, rtol=1e-6)


def test_of_equal_vectors_only_the_first_is_uncrowded():
    assert crowding_distances([(1.0, 2.0), (1.0, 2.0), (1.0, 2.0)]) == [math.inf, 0.0, 0.0]
    assert crowding_distances([(0.0, 3.0), (1.0, 2.0), (1.0, 2.0), (3.0, 0.0)]) == [math.inf, 1.0, 0.0, math.inf]


def test_crowding_of_the_largest_numbers_is_finite():
    huge = 1.7e308
    assert crowding_distances([(-huge, huge), (0.0, 0.0), (huge, -huge)]) == [math.inf, 1.0, math.inf]


@given(vectors(), st.randoms(use_true_random=False))
@settings(max_examples=30, suppress_health_check=[HealthCheck.filter_too_much])
def test_preferences_do_not_depend_on_the_order_of_distinct_vectors(points, random):
    points = list(dict.fromkeys(points))
    assume(all(len(set(column)) == len(points) for column in zip(*points, strict=True)))
    before = dict(zip(points, rank_and_crowding(points), strict=True))
    random.shuffle(points)
    assert dict(zip(points, rank_and_crowding(points), strict=True)) == before


@pytest.mark.slow
@given(st.integers(2, 4).flatmap(lambda size: st.lists(st.tuples(*[st.integers(0, 3)] * size), max_size=9)))
def test_hypervolume_counts_the_dominated_cells(points):
    size = len(points[0]) if points else 2
    cells = itertools.product(range(3), repeat=size)
    covered = [cell for cell in cells if any(all(a < b for a, b in zip(cell, point, strict=True)) for point in points)]
    assert hypervolume([tuple(map(float, point)) for point in points], (0.0,) * size) == len(covered)
    assert hypervolume(points[::-1], (1.0,) * size) == sum(min(cell) >= 1 for cell in covered)


def test_hypervolume_too_large_for_a_float_is_infinite():
    points = [(1.4e154, 1.2e154), (1.2e154, 1.4e154)]
    assert hypervolume(points[:1], (0.0, 0.0)) == pytest.approx(1.68e308)
    assert hypervolume(points, (0.0, 0.0)) == math.inf
