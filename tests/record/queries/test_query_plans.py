"""The queries on an empty search, and the indexes that they use on a search with candidates."""

import pytest

from eatnas_db.queries.compute_curves import list_compute_curves, list_levels_reached
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.mutations import list_mutation_statistics
from eatnas_db.queries.pareto import list_front, list_tradeoffs
from eatnas_db.queries.primitives import list_primitives
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.utilisation import get_utilisation
from support.query_plans import explain_statements

SMALL_TABLES = {"SCAN eatnas_host", "SCAN eatnas_device", "SCAN eatnas_worker", "SCAN eatnas_search"}


def test_an_untrained_search_has_empty_answers(search_factory, connection):
    search_id = search_factory("new")
    for query in (list_steps, list_primitives, list_front, list_mutation_statistics, list_best):
        assert query(connection, search_id) == ()
    utilisation = get_utilisation(connection, search_id, now=1.0)
    assert (utilisation.wall_seconds, utilisation.candidates_per_hour, utilisation.slots) == (0.0, None, ())
    assert (utilisation.busy, utilisation.training) == (None, None)
    assert list_levels_reached(list_compute_curves(connection, ["new"])) == ()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_queries_scan_small_tables_only(large, small, connection):
    def run_queries():
        for query in (list_steps, list_primitives, list_mutation_statistics, list_front, list_tradeoffs, list_best):
            query(connection, small)
        get_utilisation(connection, small, 0.0)
        list_compute_curves(connection, ["large"])
        get_lineage(connection, 1)

    steps = [step for plan in explain_statements(connection, run_queries) for step in plan.splitlines()]
    scans = {step for step in steps if step.startswith("SCAN eatnas_") and "INDEX" not in step}
    assert scans <= SMALL_TABLES
