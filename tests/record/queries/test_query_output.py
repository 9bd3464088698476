"""The output of the query and candidate commands on a finished search."""

import csv
import io
import json

import pytest

from eatnas_cli.candidate import app as candidate_app
from eatnas_cli.query.app import app as query_app
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.queries.lineage import list_descendants
from eatnas_db.queries.ranking import get_best
from support.commands import run_command
from support.recorded_search import FAILED_BIRTH, make_record


@pytest.mark.parametrize("query", ["best", "lineage", "population", "quality", "events", "failures", "fingerprint"])
def test_a_query_prints_a_table_json_and_csv(record, query):
    as_json = json.loads(run_command(query_app, record.settings, query, "small", "--format", "json"))
    as_csv = run_command(query_app, record.settings, query, "small", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(as_csv)))
    assert len(as_json) == len(rows) > 0
    assert set(rows[0]) <= set(as_json[0])
    table = run_command(query_app, record.settings, query, "small")
    assert "\x1b" not in table
    assert len(table.splitlines()) >= len(as_json)


def test_a_lineage_is_found_by_search_name_or_id(record, record_connection):
    best = get_best(record_connection, record.search_id)
    by_name = run_command(query_app, record.settings, "lineage", "small")
    assert by_name == run_command(query_app, record.settings, "lineage", best.id)
    assert f"{best.id}, birth {best.birth}" in by_name
    descendants = run_command(query_app, record.settings, "descendants", 1)
    assert "└── " in descendants or len(list_descendants(record_connection, 1)) == 1


def test_candidate_commands_print_logs_and_details(record):
    with pytest.raises(NotFoundError, match="no log of candidate"):
        run_command(candidate_app, record.settings, "logs", 2)
    record.settings.logs.mkdir(exist_ok=True)
    (record.settings.logs / "candidate-1.log").write_bytes(b"epoch 0\n\xff\n")
    assert run_command(candidate_app, record.settings, "logs", 1) == "epoch 0\n�\n"
    assert json.loads(run_command(candidate_app, record.settings, "show", 1, "--format", "json"))["birth"] == 0
    assert "val accuracy" in run_command(candidate_app, record.settings, "show", 1)
    assert "field,value" in run_command(candidate_app, record.settings, "show", 1, "--format", "csv")


def test_a_retry_of_a_failed_candidate_can_be_cancelled(tmp_path, new_url):
    made = make_record(tmp_path, new_url)
    failed_id = FAILED_BIRTH + 1
    expected = f"candidate {failed_id} will train again as candidate 25 of search small.retry"
    assert expected in run_command(candidate_app, made.settings, "retry", failed_id)
    assert "cancelled" in run_command(candidate_app, made.settings, "cancel", 25)
    again = run_command(candidate_app, made.settings, "retry", failed_id)  # a cancelled retry does not count
    assert f"candidate {failed_id} will train again as candidate 26 of search small.retry" in again
    for command in ("retry", "cancel"):
        with pytest.raises(ConflictError):
            run_command(candidate_app, made.settings, command, failed_id)
        with pytest.raises(NotFoundError):
            run_command(candidate_app, made.settings, command, 999)
    made.engine.dispose()
