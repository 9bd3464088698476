from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.rng import KeyedRng, derive_seed


def test_draws_are_pinned():
    rng = KeyedRng(7, "sample", 3)
    assert [rng.bits() for _ in range(3)] == [
        11991899890812915045,
        8208173737669929110,
        688291760225844404,
    ]
    assert KeyedRng(0, "x").randbelow(10) == 0
    assert KeyedRng(1, "tournament", 20).sample(20, 5) == [4, 1, 8, 6, 19]
    assert derive_seed(1, "a", 2) == 7619779403704092470


@pytest.mark.parametrize("other", [(1, "a", 2), (0, "b", 2), (0, "a", 3), (0, "a"), (0, "a", 2, 0)])
def test_different_keys_give_different_streams(other):
    assert KeyedRng(0, "a", 2).bits() != KeyedRng(*other).bits()


def test_small_numbers_are_uniform():
    rng = KeyedRng(0, "uniform")
    counts = Counter(rng.randbelow(7) for _ in range(7000))
    assert set(counts) == set(range(7))
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in counts.values())


def test_samples_are_uniform():
    counts = Counter(rank for n in range(2000) for rank in KeyedRng(0, "t", n).sample(10, 3))
    assert all(abs(counts[rank] - 600) < 5 * 600**0.5 for rank in range(10))


@given(st.integers(0, 2**63 - 1), st.integers(1, 200), st.data())
def test_samples_are_distinct_and_below_the_bound(seed, bound, data):
    count = data.draw(st.integers(0, bound))
    drawn = KeyedRng(seed, "d").sample(bound, count)
    assert len(set(drawn)) == len(drawn) == count
    assert all(0 <= value < bound for value in drawn)


def test_impossible_draws_raise_value_error():
    with pytest.raises(ValueError, match="bound must be at least 1, got 0"):
        KeyedRng(0, "x").randbelow(0)
    with pytest.raises(ValueError, match="cannot draw 4 distinct numbers below 3"):
        KeyedRng(0, "x").sample(3, 4)


@given(st.integers(0, 2**63 - 1))
def test_derived_seed_fits_a_signed_64_bit_integer(seed):
    assert 0 <= derive_seed(seed, "torch") < 2**63
