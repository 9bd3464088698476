from sqlalchemy import event, select

from eatnas_db.database.transactions import transaction
from eatnas_db.provenance import Provenance
from eatnas_db.rung_results import Rung
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import rung
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.rung_decisions import decide_rungs
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
    """Return the number of statements that the decisions take."""
    statements = []

    def count(_connection, _cursor, statement, *_):
        statements.append(statement)

    with transaction(engine) as connection:
        state = AdvanceState.of(lock_search(connection, search_id))
        event.listen(engine, "before_cursor_execute", count)
        decide_rungs(connection, state, 3.0)
        event.remove(engine, "before_cursor_execute", count)
    return len(statements)


def test_many_that_wait_for_a_slow_birth_cost_few_statements(engine, search_factory, lease_factory):
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
