"""The Pareto front of accuracy and cost."""

import pytest

from eatnas_db.queries.pareto import list_front, list_tradeoffs
from support.query_plans import explain_statements


@pytest.mark.parametrize("cost", ["mult_adds", "params"])
def test_the_front_holds_the_candidates_that_none_dominates(small, connection, cost):
    tradeoffs = list_tradeoffs(connection, small)
    assert len(tradeoffs) == 12

    def is_dominated(row):
        return any(
            other.accuracy >= row.accuracy
            and getattr(other, cost) <= getattr(row, cost)
            and (other.accuracy, getattr(other, cost)) != (row.accuracy, getattr(row, cost))
            for other in tradeoffs
        )

    front = list_front(connection, small, cost)
    assert set(front) == {row for row in tradeoffs if not is_dominated(row)}
    assert [getattr(row, cost) for row in front] == sorted(getattr(row, cost) for row in front)
    assert len(list_tradeoffs(connection, small, max_points=4)) == 4


@pytest.mark.parametrize("cost", ["mult_adds", "params"])
def test_the_front_is_read_along_an_index_without_sorting(small, connection, cost):
    plans = explain_statements(connection, lambda: list_front(connection, small, cost))
    assert len(plans) > 1
    assert all(f"ix_eatnas_candidate_by_{cost}" in plan for plan in plans)
    assert not any("Sort" in plan or "TEMP B-TREE" in plan for plan in plans)
