"""Ancestors and descendants of candidates."""

from itertools import pairwise

import pytest
from sqlalchemy import select

from eatnas_db.errors import NotFoundError
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.lineage import get_lineage, list_descendants, list_scored_births, list_scored_children
from eatnas_db.queries.ranking import list_best
from eatnas_db.schema.candidates import candidate, mutation


def test_a_lineage_leads_to_the_root(record, record_connection):
    youngest = max(list_best(record_connection, record.search_id, 100), key=lambda row: row.birth)
    lineage = get_lineage(record_connection, youngest.id)
    root = lineage[-1]
    assert lineage[0].birth == youngest.birth
    assert (root.parent_id, root.origin, root.changes, root.gain) == (None, "random", (), None)
    for child, parent in pairwise(lineage):
        assert child.parent_id == parent.id
        assert child.gain == child.fitness - parent.fitness
        (change,) = child.changes
        assert change.startswith("block ")
        assert " → " in change
        assert "True" not in change
        assert "False" not in change


def test_descendants_are_the_inverse_of_lineages(record, record_connection):
    rows = list_best(record_connection, record.search_id, 100)
    roots = {row.id: get_lineage(record_connection, row.id)[-1].id for row in rows}
    root = roots[max(rows, key=lambda row: row.birth).id]
    descendants = {row.id for row in list_descendants(record_connection, root)}
    assert descendants & roots.keys() == {row_id for row_id, root_id in roots.items() if root_id == root}


@pytest.mark.parametrize("candidate_id", [0, -1, 4711, 2**80])
def test_an_unknown_candidate_is_an_error(record_connection, candidate_id):
    for query in (get_lineage, list_descendants, get_candidate):
        with pytest.raises(NotFoundError, match="no candidate"):
            query(record_connection, candidate_id)


@pytest.mark.slow
def test_gain_is_computed_only_within_one_search(large, connection):
    ids = select(candidate.c.id).where(candidate.c.search_id == large).order_by(candidate.c.id)
    youngest = connection.execute(ids).scalars().all()[-1]
    lineage = get_lineage(connection, youngest)
    names = [entry.search for entry in lineage]
    assert names == sorted(names)
    assert set(names) == {"large", "small"}
    source = next(entry for entry in lineage if entry.search == "small")
    child = lineage[lineage.index(source) - 1]
    assert (child.parent_id, child.gain) == (source.id, None)
    assert {entry.search for entry in list_descendants(connection, source.id)} >= {"large", "small"}


def test_changes_of_a_perturbation_keep_their_order(large, connection):
    query = (
        select(mutation.c.candidate_id, mutation.c.block)
        .join(candidate, candidate.c.id == mutation.c.candidate_id)
        .where(candidate.c.search_id == large)
        .order_by(mutation.c.ordinal)
    )
    blocks: dict[int, list[str]] = {}
    for candidate_id, block in connection.execute(query):
        blocks.setdefault(candidate_id, []).append(f"block {block}")
    perturbed = {candidate_id: names for candidate_id, names in blocks.items() if len(names) > 1}
    assert perturbed
    for candidate_id, names in perturbed.items():
        child = get_lineage(connection, candidate_id)[0]
        assert [" ".join(change.split()[:2]) for change in child.changes] == names
        (descendant,) = (row for row in list_descendants(connection, child.parent_id) if row.id == candidate_id)
        assert descendant.changes == child.changes


def test_scored_children_exclude_the_lineage_and_retrainings(large, connection):
    lineage = [entry.id for entry in get_lineage(connection, list_best(connection, large, 1)[0].id)]
    children = list_scored_children(connection, lineage)
    rows = connection.execute(select(candidate).where(candidate.c.parent_id.in_(lineage))).all()
    assert {child.id for child in children} == {
        row.id for row in rows if row.id not in lineage and row.origin != "reevaluation" and row.fitness is not None
    }
    assert children


def test_scored_births_leave_out_failures_and_retrained_candidates(record, record_connection):
    births = list_scored_births(record_connection, ["small", "nosuch"])
    assert [point.birth for point in births] == sorted(
        row.birth for row in list_best(record_connection, record.search_id, 100)
    )
    assert {point.search for point in births} == {"small"}
    assert list_scored_births(record_connection, []) == []
