"""The commands that only read: their three formats, their sentences, and their use of indexes."""

import csv
import io
import json
from dataclasses import astuple

import pytest
from sqlalchemy import event as hooks
from sqlalchemy import func, insert, select, update

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.events import record_event
from eatnas_db.queries.events import list_events
from eatnas_db.queries.searches import get_search, list_search_summaries
from eatnas_db.queries.training_activity import list_blocked_searches, list_training_activity
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, lease
from eatnas_db.settings import load_settings

READS = [
    ("search", "list"),
    ("search", "show", "tiny"),
    ("daemon", "status"),
    ("data", "list"),
    ("data", "prepare", "digits"),
    ("db", "current"),
    ("doctor",),
    ("query", "events", "tiny"),
    ("query", "events", "--candidate", "2"),
    ("candidate", "show", "1"),
    ("space", "show"),
]


@pytest.fixture
def engine(tiny, home):
    engine = open_record(load_settings({}, str(home)).database_url)
    yield engine
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("read", READS, ids=" ".join)
def test_every_reading_command_has_three_formats(tiny, eatnas_within, spec, read):
    spec()
    lines = eatnas_within(*read, "--format", "json")
    if read[0] != "space":  # `space sample` prints one object per line, as input for `space cost`
        assert json.loads(lines)
    assert len(list(csv.reader(io.StringIO(eatnas_within(*read, "--format", "csv"))))) > 1
    assert "Error" not in eatnas_within(*read)


@pytest.mark.slow
def test_estimate_is_written_as_json(tiny, eatnas_within, spec):
    answer = json.loads(eatnas_within("search", "estimate", spec(), "--samples", "1", "--format", "json"))
    assert answer["device"].startswith("CPU")
    assert answer["hours"] == answer["search_hours"] + answer["reevaluation_hours"]
    assert min(answer["seconds_per_candidate"], answer["images_per_second"], answer["hours"]) > 0
    assert answer["paper_search_hours"] is None


@pytest.mark.slow
def test_list_of_searches_shows_progress(tiny, eatnas):
    (row,) = json.loads(eatnas("search", "list", "--format", "json"))
    row.pop("created_at")
    assert row == {"name": "tiny", "status": "waiting: no daemon", "settled": 0, "budget": 4, "best": None}
    assert "0/4" in eatnas("search", "list")
    assert "spec.training.batch_size" in eatnas("search", "show", "tiny")
    assert json.loads(eatnas("search", "show", "tiny", "--format", "json"))["spec"]["training"]["batch_size"] == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "candidate", "detail", "words"),
    [
        ("leased", 1, None, "attempt 3 started"),
        ("released", 1, None, "attempt 3 was stopped on request; the training will continue from its checkpoint"),
        (
            "failed",
            1,
            {"failure": "out_of_memory", "message": "no\nroom"},
            "the candidate failed in attempt 3: out of memory, no room",
        ),
        (
            "taken_back",
            1,
            {"failure": "lost", "message": "a {brace}"},
            "attempt 3 ended without a score: lost, a {brace}; the candidate waits for another attempt",
        ),
        ("resumed", 1, {"epoch": 2, "batch": 7}, "attempt 3 continues from epoch 2, batch 7"),
        ("resumed", None, None, "the search was resumed"),
        ("cancelled", None, None, "the search was cancelled"),
        ("cancelled", 1, None, "the candidate was cancelled"),
        ("finished", None, {"why": "done"}, "the search finished: done"),
        ("finished", None, None, "finished"),
        ("of_tomorrow", 1, {"depth": 3, "by": "us"}, "of tomorrow: depth 3, by us"),
    ],
)
def test_event_is_described_in_words(engine, kind, candidate, detail, words):
    with transaction(engine) as connection:
        search_id = get_search(connection, "tiny").id
        record_event(
            connection,
            9.0,
            kind,
            search_id=search_id,
            candidate_id=candidate,
            attempt=3 if candidate else None,
            detail=detail,
        )
        found = list_events(connection, limit=1)
    assert (found[0].words, found[0].search, found[0].detail) == (words, "tiny", detail)


def test_candidate_history_excludes_other_candidates(engine):
    with read_transaction(engine) as connection:
        found = list_events(connection, candidate_id=2)
    assert [(event.candidate_id, event.words) for event in found] == [(2, "born as a random sample")]


def give_work(connection, *workers, of=2):
    """Insert workers. The first of them trains a candidate."""
    connection.execute(insert(host).values(id=1, name="h", seen_at=0))
    connection.execute(insert(device).values(id=1, host_id=1, uuid="u", kind="cpu", name="d"))
    for number in workers:
        connection.execute(insert(worker).values(id=number, device_id=1, slot=4, pid=77, started_at=0))
    connection.execute(insert(attempt).values(candidate_id=of, number=3, worker_id=1, started_at=5.0))
    connection.execute(insert(lease).values(candidate_id=of, attempt=3, host_id=1))


def test_search_without_pending_candidates_is_held_up(engine):
    with transaction(engine) as connection:
        give_work(connection, 1)
        assert list_blocked_searches(connection) == ()
        connection.execute(insert(worker).values(id=2, device_id=1, slot=5, pid=78, started_at=0))
        connection.execute(update(candidate).where(candidate.c.id == 2).values(state="leased"))
        lag, pending = connection.execute(
            select(search.c.lag, func.count().filter(candidate.c.state == "pending")).join(candidate)
        ).one()
        assert pending
        assert list_blocked_searches(connection) == ()
        connection.execute(update(candidate).where(candidate.c.state == "pending").values(state="cancelled"))
        ((_, in_training, output),) = map(astuple, list_blocked_searches(connection))
        assert (in_training, output) == (1, lag)
        for ended in ({"exhausted": True}, {"ends_at": 1}, {"budget_device_seconds": 0.0}, {"wish": "paused"}):
            before = connection.begin_nested()
            connection.execute(update(search).values(**ended))
            assert list_blocked_searches(connection) == (), ended
            before.rollback()
        assert list_blocked_searches(connection)


def test_activity_and_status_are_read_by_index(engine):
    with transaction(engine) as connection:
        give_work(connection, 1, 2)
        connection.execute(
            insert(epoch),
            [
                dict.fromkeys([column.name for column in epoch.c], 0.5)
                | {"candidate_id": 2, "number": number, "attempt": 3}
                for number in range(2)
            ],
        )
    asked = []
    with read_transaction(engine) as connection:
        hooks.listen(connection, "before_cursor_execute", lambda *seen: asked.append((seen[2], seen[3])))
        (work,) = list_training_activity(connection)
        list_blocked_searches(connection)
        list_search_summaries(connection)
        list_events(connection, candidate_id=2)
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given).all() for sql, given in list(asked)]
    assert (work.slot, work.worker_pid, work.candidate_id, work.birth) == (4, 77, 2, 1)
    assert (work.attempt, work.epochs_done, work.epochs, work.started_at) == (3, 2, 1, 5.0)
    scans = {row[3] for plan in plans for row in plan if row[3].startswith("SCAN") and "INDEX" not in row[3]}
    # Scanning the table of workers is cheap: a worker trains hundreds of candidates, so the table is small.
    assert scans <= {"SCAN eatnas_lease", "SCAN eatnas_search", "SCAN eatnas_worker", "SCAN CONSTANT ROW"}
