"""The use of slots and the causes of idle time."""

from sqlalchemy import Connection, insert, select, update

from eatnas_db.database.transactions import transaction
from eatnas_db.events import record_event
from eatnas_db.queries.utilisation import get_utilisation
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.trainings import attempt


def test_utilisation_is_busy_time_over_wall_time(engine, small):
    with transaction(engine) as connection:
        values = {"started_at": 0.0, "ended_at": 1.0, "outcome": "scored", "device_seconds": 0.5}
        connection.execute(update(attempt).values(**values))
        connection.execute(update(attempt).where(attempt.c.candidate_id == 1).values(ended_at=None, outcome=None))
        connection.execute(update(attempt).where(attempt.c.candidate_id > 2).values(ended_at=0.0))
        utilisation = get_utilisation(connection, small, now=8.0)
    (slot,) = utilisation.slots
    assert (utilisation.wall_seconds, utilisation.device_seconds, utilisation.scored) == (8.0, 12.0, 12)
    assert (slot.host, slot.slot, slot.attempts, slot.busy_seconds, slot.busy) == ("here", 0, 12, 9.0, 1.0)
    assert slot.training == utilisation.training == 12 * 0.5 / 8.0
    assert utilisation.candidates_per_hour == 3600 * 12 / 8


def insert_attempts(connection: Connection, search_id: int, worker_id: int, *spans: tuple[float, float]) -> None:
    """Insert an attempt for each span of time. All but one second of each span is device time."""
    ids = connection.execute(select(candidate.c.id).where(candidate.c.search_id == search_id)).scalars()
    attempted = set(connection.execute(select(attempt.c.candidate_id)).scalars())
    unattempted = (candidate_id for candidate_id in ids if candidate_id not in attempted)
    for started_at, ended_at in spans:
        connection.execute(
            insert(attempt).values(
                candidate_id=next(unattempted),
                number=1,
                worker_id=worker_id,
                started_at=started_at,
                ended_at=ended_at,
                outcome="scored",
                device_seconds=ended_at - started_at - 1.0,
            )
        )


def test_idle_time_is_split_by_cause(engine, search_factory):
    """The slot has workers from 2 to 10 s and from 14 s on. The search trains from 3 to 7 s and from 15 to 20 s."""
    search_id, other_id = search_factory("s"), search_factory("other")
    with transaction(engine) as connection:
        connection.execute(update(worker).values(started_at=2.0, ended_at=10.0, ending="wanted by pid 7"))
        connection.execute(insert(worker).values(id=2, device_id=1, slot=0, pid=2, started_at=14.0))
        insert_attempts(connection, search_id, 1, (3.0, 7.0))
        insert_attempts(connection, search_id, 2, (15.0, 20.0))
        insert_attempts(connection, other_id, 1, (8.0, 10.0))
        insert_attempts(connection, other_id, 2, (20.0, 30.0))
        for kind, at in (("paused", 7.5), ("resumed", 7.75)):
            record_event(connection, at, kind, search_id=search_id)
        utilisation = get_utilisation(connection, search_id, now=40.0)
    assert utilisation.wall_seconds == 17.0
    seconds = {idle.cause: idle.seconds for idle in utilisation.idle}
    assert seconds == {
        "a worker loaded data, built a network or wrote a checkpoint": 2.0,
        "a worker trained for other searches": 2.0,
        "the search was paused": 0.25,
        "a worker waited for a candidate": 1.75,
        "no worker was running; the last one ended: wanted by pid 7": 4.0,
    }
    (slot,) = utilisation.slots
    assert slot.device_seconds + sum(seconds.values()) == utilisation.wall_seconds
    assert [idle.share for idle in utilisation.idle] == [idle.seconds / 17.0 for idle in utilisation.idle]
