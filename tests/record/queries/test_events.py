"""Events and failed attempts."""

from eatnas_db.queries.events import list_events
from eatnas_db.queries.failures import list_failures
from support.recorded_search import FAILED_BIRTH


def test_the_newest_events_come_last(record, record_connection):
    events = list_events(record_connection, record.search_id, limit=1000)
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert events[0].kind == "created"
    assert events[-1].detail == {"why": "done"}
    assert list_events(record_connection, record.search_id, limit=3) == events[-3:]
    assert list_events(record_connection, record.search_id, limit=3, offset=2) == events[-5:-2]
    assert list_events(record_connection, after=events[-3].id) == events[-2:]
    assert list_events(record_connection, until=events[4].id) == events[:5]


def test_failed_attempts_have_a_reason(record, record_connection):
    (row,) = list_failures(record_connection, record.search_id)
    assert (row.birth, row.attempt, row.failure, row.state) == (FAILED_BIRTH, 1, "diverged", "failed")
