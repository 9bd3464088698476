"""The cost per candidate is constant: no statement during its life scans a whole table."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from eatnas_db import leases, provenance, training_record, transitions
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import FailureKind
from eatnas_db.leases import LeasedCandidate
from eatnas_db.lost_leases import reclaim_leases
from eatnas_db.searches.advance import advance_search, breed_births, settle_births
from eatnas_db.searches.checkpoint_retention import CheckpointRetention
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_db.training_record import CheckpointRecord, EpochRecord, ResumptionRecord

SMALL = {"SCAN eatnas_checkpoint", "SCAN eatnas_lease", "SCAN CONSTANT ROW"}
SMALL |= {"Seq Scan on eatnas_checkpoint", "Seq Scan on eatnas_lease"}
SMALL |= {"SCAN held", "SCAN (subquery-4)"}
"""The allowed scans. They read few rows, because few candidates have checkpoints and only candidates in training have
leases. `held` and its subquery are the checkpoints with their candidates.
"""
LEASING = r"UPDATE eatnas_candidate SET state=\S+, attempt=\("


def plans(engine: Engine, life: Callable[[Any], None]) -> dict[str, str]:
    """Return the statements that `life` executes, each with its query plan."""
    executed: dict[str, Any] = {}

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        executed[statement] = parameters[0] if many else parameters

    event.listen(engine, "before_cursor_execute", record)
    with transaction(engine) as connection:
        life(connection)
    event.remove(engine, "before_cursor_execute", record)
    plans_by_statement = {}
    explain, column = "EXPLAIN QUERY PLAN", 3
    with transaction(engine) as connection:
        if is_postgresql(engine):
            # Without statistics, several indexes seem equally good to the planner.
            connection.exec_driver_sql("ANALYZE")
            # Make scans expensive: a table that is scanned nevertheless has no suitable index.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            explain, column = "EXPLAIN", 0
        for statement, parameters in executed.items():
            if statement.startswith(("SELECT", "UPDATE", "DELETE")) and "pg_notify" not in statement:
                rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
                plans_by_statement[statement] = "; ".join(row[column].strip() for row in rows)
    return plans_by_statement


def list_scans(plans_by_statement: dict[str, str]) -> set[str]:
    """Return the steps of plans that read a whole table."""
    parts = {part for plan in plans_by_statement.values() for part in plan.split("; ")}
    return {re.sub(r"^->\s+|  \(cost.*", "", part) for part in parts if re.match(r"SCAN|(->\s+)?Seq Scan", part)}


def life(connection: Any, search_id: int, leased: list[LeasedCandidate]) -> None:
    """Lease a candidate, let another candidate fail, score a third candidate, and advance the search."""
    now = 10.0
    newly_leased = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=now)
    assert newly_leased is not None
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
    drop_unneeded_checkpoints(connection)
    reclaim_leases(connection, 1, now)


def test_candidate_statements_use_indexes_only(
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
    plans_by_statement = plans(
        engine, lambda connection: life(connection, search_id, [leased for leased in both if leased])
    )
    assert len(plans_by_statement) > 20
    assert {re.sub(" eatnas_checkpoint_1$", "", scan) for scan in list_scans(plans_by_statement)} <= SMALL
    (lease,) = [plan for statement, plan in plans_by_statement.items() if re.match(LEASING, statement)]
    assert "ix_eatnas_candidate_pending" in lease
    living = [plan for statement, plan in plans_by_statement.items() if statement.endswith('"left" IS NULL')]
    assert living
    assert all("ix_eatnas_candidate_living" in plan for plan in living)
    if not is_postgresql(engine):  # PostgreSQL's plan depends on table sizes, which are small here
        (retention,) = [plan for sql, plan in plans_by_statement.items() if "AS held" in sql]
        # The statement starts from the few checkpoints, reads their candidates, and sorts them. It does not read the
        # whole search.
        assert "SCAN eatnas_checkpoint; SEARCH eatnas_candidate USING INTEGER PRIMARY KEY" in retention
        assert not re.search(r"uq_eatnas_candidate|ix_eatnas_candidate_(?!parent)", retention)
        assert retention.count("TEMP B-TREE") == 1


def test_cleanup_of_changed_searches_scans_no_table(
    engine: Engine,
    search_factory: Callable[..., int],
    lease_factory: Callable[..., LeasedCandidate | None],
    score_factory: Callable[[LeasedCandidate, float], None],
) -> None:
    search_id = search_factory(evolution__population=2, evolution__lag=1, reevaluation__top=1, budget__candidates=40)
    retention, dropped = CheckpointRetention(), list[str]()
    for number in range(20):
        leased = lease_factory(search_id)
        assert leased is not None
        with transaction(engine) as connection:
            saved = CheckpointRecord(f"c{number}", "d", 1, 1, 0)
            training_record.record_checkpoint(connection, leased.token, saved, 1.0)
        score_factory(leased, number / 20)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, search_id), 3.0)
            if number == 10:
                retention.drop(connection)  # the first cleanup reads all checkpoints
    plans_by_statement = plans(engine, lambda connection: dropped.extend(retention.drop(connection)))
    assert len(dropped) > 4
    assert any(statement.startswith("DELETE") for statement in plans_by_statement)
    scans = {scan for scan in list_scans(plans_by_statement) if "eatnas_" in scan}
    assert scans <= {"SCAN eatnas_search USING INDEX ix_eatnas_search_open"}
