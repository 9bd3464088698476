import pytest
from sqlalchemy import event, select

from eatnas_daemon.gpus.worker_scheduler import NO_GPUS
from eatnas_daemon.supervision.dispatcher import Dispatcher
from eatnas_daemon.supervision.search_holds import SearchHolds
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS
from eatnas_db.database.transactions import transaction
from eatnas_db.provenance import Provenance
from eatnas_db.rung_results import Rung
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import rung
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.prepared_births import LeftToDaemon
from eatnas_db.searches.rung_decisions import decide_rungs
from eatnas_db.settings import load_settings
from eatnas_db.transitions import record_score

BIRTHS = 8
UNDER = Provenance("p", {}, "data", {}, "cpu", "none")


def reach_first_rung(engine, leased):
    token = leased.token
    with transaction(engine) as connection:
        record_score(
            connection,
            token,
            fitness=token.candidate / 100,
            metrics={"val_accuracy": token.candidate / 100},
            seed=7,
            provenance=UNDER,
            device_seconds=1.0,
            now=2.0,
            reached=Rung(0, 1, is_last=False),
        )


def decide(engine, search_id):
    """Return the number of statements that the decisions execute."""
    statements = []

    def count(_connection, _cursor, statement, *_):
        statements.append(statement)

    with transaction(engine) as connection:
        state = AdvanceState.of(lock_search(connection, search_id))
        event.listen(engine, "before_cursor_execute", count)
        decide_rungs(connection, state, 3.0)
        event.remove(engine, "before_cursor_execute", count)
    return len(statements)


def test_many_births_that_wait_for_another_cost_few_statements(engine, search_factory, lease_factory):
    search_id = search_factory(
        evolution__population=BIRTHS,
        evolution__lag=1,
        training__epochs=3,
        evolution__fidelity={"rungs": [1], "keep": 0.5},
    )
    leased = [lease_factory(search_id) for _ in range(BIRTHS)]
    for one in leased[1:]:
        reach_first_rung(engine, one)
    assert decide(engine, search_id) == 2
    reach_first_rung(engine, leased[0])
    decide(engine, search_id)
    with transaction(engine) as connection:
        decisions = select(rung.c.promoted).join(candidate, candidate.c.id == rung.c.candidate_id)
        promoted = connection.execute(decisions.order_by(candidate.c.birth)).scalars().all()
    assert promoted == [False, True, False, True, False, True, False, True]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_host_decides_nothing_in_searches_it_has_not_locked(engine, search_factory, lease_factory, tmp_path):
    search_id = search_factory(training__epochs=3, evolution__fidelity={"rungs": [1], "keep": 0.5})
    leased = [lease_factory(search_id) for _ in range(4)]
    holds = SearchHolds(2, [])
    options = (DEFAULT_TIMEOUTS, None, holds, LeftToDaemon())
    dispatcher = Dispatcher(load_settings({}, str(tmp_path)), 2, [], NO_GPUS, *options)
    left_to_other_host = [advance_on_other_host]

    def interfere(_connection, _cursor, statement, *_):
        if "eatnas_rung" in statement and left_to_other_host:
            left_to_other_host.pop()(engine, search_id)

    with transaction(engine) as connection:
        dispatcher.lock_searches(connection, 2.0, everything=False)
        reach_first_rung(engine, leased[0])
        event.listen(engine, "after_cursor_execute", interfere)
        dispatcher.dispatch(connection, 1.0, 2.0, draining=False)
        event.remove(engine, "after_cursor_execute", interfere)
    assert left_to_other_host
    with transaction(engine) as connection:
        dispatcher.lock_searches(connection, 2.0, everything=False)
        dispatcher.dispatch(connection, 1.0, 2.0, draining=False)
        assert connection.execute(select(rung.c.promoted)).scalars().all() == [False]


def advance_on_other_host(engine, search_id):
    with transaction(engine) as connection:
        advance_search(connection, lock_search(connection, search_id), 2.0)


def test_search_whose_last_rung_decisions_score_it_has_not_failed(engine, search_factory, lease_factory):
    search_id = search_factory(
        evolution__population=2,
        evolution__lag=2,
        budget__candidates=2,
        training__epochs=3,
        evolution__fidelity={"rungs": [1], "keep": 0.5},
    )
    for leased in [lease_factory(search_id) for _ in range(2)]:
        reach_first_rung(engine, leased)
    advance_on_other_host(engine, search_id)
    with transaction(engine) as connection:
        record = lock_search(connection, search_id)
    assert record.finished_at is not None
    assert (record.scored, record.failed) == (2, False)
