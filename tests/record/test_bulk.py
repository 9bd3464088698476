"""Many births are created, settled and cancelled with few statements, and a tick executes no statement for an idle
search.
"""

from dataclasses import replace

import pytest
from sqlalchemy import event, func, select

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import DesiredState, FailureKind
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import block, candidate
from eatnas_db.schema.events import event as event_table
from eatnas_db.schema.searches import step
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.control import set_desired_state
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_db.searches.retry import retry_candidates
from eatnas_db.settings import load_settings
from eatnas_db.training_record import CheckpointRecord, record_checkpoint
from eatnas_db.transitions import record_failure


@pytest.fixture
def count(engine):
    """Return a function that calls its argument and returns the number of statements that the call executes."""

    def measure(function):
        statements = []

        def note(_connection, _cursor, statement, *_):
            statements.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        function()
        event.remove(engine, "before_cursor_execute", note)
        return len(statements)

    return measure


def number_of(engine, query):
    with read_transaction(engine) as connection:
        return connection.execute(query).scalar_one()


def cancel(engine, name):
    with transaction(engine) as connection:
        set_desired_state(connection, name, DesiredState.CANCELLED, 3.0)


def test_creating_and_cancelling_births_takes_few_statements(engine, search_factory, count):
    def create(name, births):
        return lambda: search_factory(name, evolution__population=births, budget__candidates=births)

    assert count(create("many", 700)) < 30
    search_id = number_of(engine, select(candidate.c.search_id).limit(1))
    assert number_of(engine, select(func.count()).select_from(block)) >= 7 * 600
    born = select(func.count()).where(event_table.c.kind == "born", event_table.c.search_id == search_id)
    assert number_of(engine, born) == 700
    assert count(lambda: cancel(engine, "many")) < 35
    with read_transaction(engine) as connection:
        record = get_search(connection, "many")
        states = set(connection.execute(select(candidate.c.state)).scalars())
    assert (record.settled, states) == (700, {"cancelled"})
    assert number_of(engine, select(func.count()).where(step.c.search_id == search_id)) == 700


def test_many_retries_take_few_statements(engine, search_factory, lease_factory, count):
    search_id = search_factory(evolution__population=30, budget__candidates=30)
    failed = []
    while (leased := lease_factory(search_id)) is not None:
        with transaction(engine) as connection:
            record_failure(connection, leased.token, FailureKind.DIVERGED, "", now=2.0)
        failed.append(leased.token.candidate)

    def retry():
        with transaction(engine) as connection:
            assert len(retry_candidates(connection, failed, 3.0)) == 30

    assert count(retry) < 30


def test_idle_searches_add_no_statements_to_a_tick(engine, url, tmp_path, search_factory, count):
    timeouts = replace(DEFAULT_TIMEOUTS, database=0.0, checkpoint_cleanup=0.0)
    settings = replace(load_settings({}, str(tmp_path / "home")), database_url=url)
    supervisor = Supervisor(engine, settings, Launcher(tmp_path), slots=0, host_name="here", timeouts=timeouts)
    numbers = []
    for first, end in ((0, 2), (2, 22)):
        for number in range(first, end):
            search_factory(f"idle{number}")
        for _ in range(3):  # tick until the supervisor has read the changes
            supervisor.tick()
        numbers.append(count(supervisor.tick))
    supervisor._close()
    assert numbers[0] == numbers[1] < 15


def test_cancelling_ends_every_attempt_in_training(engine, search_factory, lease_factory):
    search_id = search_factory(evolution__population=30, budget__candidates=30)
    leased = [lease_factory(search_id) for _ in range(3)]
    cancel(engine, "s")
    details = select(event_table.c.detail).where(event_table.c.kind == "cancelled", event_table.c.candidate_id > 0)
    with read_transaction(engine) as connection:
        assert len(connection.execute(details).all()) == 30
        states = connection.execute(select(candidate.c.state).where(candidate.c.id == leased[0].token.candidate))
        assert states.scalars().all() == ["cancelled"]


def list_unneeded(connection, record):
    """Return the checkpoints of a finished search that may be deleted. Check one candidate at a time."""
    query = select(candidate, checkpoint.c.path).join(checkpoint, checkpoint.c.candidate_id == candidate.c.id)
    rows = connection.execute(query.where(candidate.c.search_id == record.id)).all()
    scored = sorted((row for row in rows if row.fitness is not None), key=lambda row: (-row.fitness, row.birth))
    fittest = {row.id for row in scored[: record.spec["reevaluation"]["top"]]}
    visible_step = record.born - record.lag + 1
    return [
        row.path
        for row in rows
        if row.id not in fittest and (row.joined is None or (row.left is not None and row.left <= visible_step))
    ]


def test_unneeded_checkpoints_of_all_searches_are_dropped(engine, search_factory, lease_factory, score_factory):
    for name in ("a", "b"):
        search_id = search_factory(name, evolution__population=3, evolution__lag=2, reevaluation__top=2)
        while (leased := lease_factory(search_id)) is not None:
            path = f"checkpoints/{search_id}/c{leased.token.candidate}"
            with transaction(engine) as connection:
                saved = CheckpointRecord(path, "d", 1, 1, 0)
                record_checkpoint(connection, leased.token, saved, 1.0)
                if leased.birth == 5:
                    record_failure(connection, leased.token, FailureKind.DIVERGED, "", now=2.0)
            if leased.birth != 5:
                score_factory(leased, (leased.birth * 7 % 11) / 10)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, search_id), 3.0)
    with transaction(engine) as connection:
        unneeded = {path for name in ("a", "b") for path in list_unneeded(connection, get_search(connection, name))}
        assert set(drop_unneeded_checkpoints(connection)) == unneeded
        assert drop_unneeded_checkpoints(connection) == []
    assert len(unneeded) > 8
