"""Work per candidate is flat: no statement of a candidate's life reads a table from end to end."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from eatnas_db import leases, provenance, training_record, transitions
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import FailureKind
from eatnas_db.leases import LeasedCandidate
from eatnas_db.searches.advance import advance_search, breed_births, settle_births
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_db.training_record import CheckpointRecord, EpochRecord, ResumptionRecord

SMALL = {"SCAN eatnas_checkpoint", "SCAN eatnas_lease", "SCAN CONSTANT ROW"}
SMALL |= {"Seq Scan on eatnas_checkpoint", "Seq Scan on eatnas_lease"}
"""What may be read whole: checkpoints are kept for the living alone, leases for what is in training."""
LEASING = r"UPDATE eatnas_candidate SET state=\S+, attempt=\("


def plans(engine: Engine, life: Callable[[Any], None]) -> dict[str, str]:
    """Each statement that `life` executes, with the database's plan for it."""
    seen: dict[str, Any] = {}

    def write(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen[statement] = parameters[0] if many else parameters

    event.listen(engine, "before_cursor_execute", write)
    with transaction(engine) as connection:
        life(connection)
    event.remove(engine, "before_cursor_execute", write)
    found = {}
    explain, column = "EXPLAIN QUERY PLAN", 3
    with transaction(engine) as connection:
        if is_postgresql(engine):
            # What is still read from end to end where that is made dear has no index to go by.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            explain, column = "EXPLAIN", 0
        for statement, parameters in seen.items():
            if statement.startswith(("SELECT", "UPDATE", "DELETE")) and "pg_notify" not in statement:
                rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
                found[statement] = "; ".join(row[column].strip() for row in rows)
    return found


def life(connection: Any, search_id: int, leased: list[LeasedCandidate]) -> None:
    """Lease one candidate, let one fail, score another, and move the search on."""
    now = 10.0
    one = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=now)
    assert one is not None
    leases.record_heartbeat(connection, 1)
    for held in leased:
        token = held.token
        resumed_from = CheckpointRecord(f"r{token.candidate}", "d", 1, 0, 0)
        training_record.record_resumption(connection, token, ResumptionRecord(resumed_from, {"x": "torn"}), now)
        epoch = EpochRecord(0, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 1.0)
        training_record.record_epochs(connection, token, [epoch], now)
        saved = CheckpointRecord(f"c{token.candidate}", "d", 1, 1, 0)
        training_record.record_checkpoint(connection, token, saved, now)
    first, second = leased
    transitions.record_failure(connection, second.token, FailureKind.DIVERGED, "nan", now=now)
    transitions.record_score(
        connection,
        first.token,
        fitness=0.5,
        metrics={"val_accuracy": 0.5},
        seed=1,
        provenance=provenance.Provenance("p", {}, "d", {}, "cpu", "none"),
        device_seconds=1.0,
        now=now,
    )
    advance_search(connection, lock_search(connection, search_id), now)
    drop_unneeded_checkpoints(connection, lock_search(connection, search_id))
    transitions.reclaim_leases(connection, 1, now)


def test_a_candidates_life_reads_by_index_alone(
    engine: Engine,
    search_factory: Callable[..., int],
    lease_factory: Callable[..., LeasedCandidate | None],
    score_factory: Callable[[LeasedCandidate, float], None],
) -> None:
    search_id = search_factory(budget__candidates=40, evolution__stop_when="quality_flat")
    for _ in range(8):
        leased = lease_factory(search_id)
        assert leased is not None
        score_factory(leased, 0.4)
        with transaction(engine) as connection:
            settle_births(connection, search_id, 3.0)
            breed_births(connection, search_id, 3.0)
    both = [lease_factory(search_id), lease_factory(search_id)]
    found = plans(engine, lambda connection: life(connection, search_id, [one for one in both if one]))
    assert len(found) > 20
    parts = {part for plan in found.values() for part in plan.split("; ")}
    scans = {re.sub(r"^->\s+|  \(cost.*", "", part) for part in parts if re.match(r"SCAN|(->\s+)?Seq Scan", part)}
    assert {re.sub(" eatnas_checkpoint_1$", "", scan) for scan in scans} <= SMALL
    (lease,) = [plan for statement, plan in found.items() if re.match(LEASING, statement)]
    assert "ix_eatnas_candidate_pending" in lease
    living = [plan for statement, plan in found.items() if statement.endswith('"left" IS NULL')]
    assert living
    assert all("ix_eatnas_candidate_living" in plan for plan in living)
    if not is_postgresql(engine):  # which goes by how much there is, and here there is little
        (collecting,) = [plan for sql, plan in found.items() if sql.startswith("SELECT eatnas_checkpoint.path")]
        # From the few checkpoints to their candidates, and not through the search's history.
        assert not re.search(r"uq_eatnas_candidate|ix_eatnas_candidate_(?!parent)", collecting)
