"""The progress of a search."""

import pytest

from eatnas_db.database.transactions import transaction
from eatnas_db.queries.progress import get_progress
from eatnas_db.transitions import lease_next
from support.query_plans import explain_statements
from support.recorded_search import make_record


def test_progress_counts_candidates_by_state(record, record_connection):
    progress = get_progress(record_connection, record.search_id)
    assert (progress.done, progress.scored, progress.failed, progress.pending, progress.leased) == (24, 23, 1, 0, 0)
    assert (progress.best, progress.device_seconds, progress.started_at) == (1 / 3, 46.0, 1000.0)


@pytest.mark.parametrize("new_url", ["sqlite"], indirect=True)
def test_progress_scans_no_table_but_the_leases(tmp_path, new_url):
    made = make_record(tmp_path, new_url, births=10)
    with transaction(made.engine) as connection:
        lease_next(connection, made.search_id, host_id=1, worker_id=1, now=2000)
        progress = get_progress(connection, made.search_id)
        plans = explain_statements(connection, lambda: get_progress(connection, made.search_id))
    assert progress.born == progress.done + progress.pending + progress.leased
    assert (progress.done, progress.leased) == (10, 1)
    steps = [step for plan in plans for step in plan.splitlines()]
    assert {step for step in steps if step.startswith("SCAN")} <= {"SCAN eatnas_lease"}
    made.engine.dispose()
