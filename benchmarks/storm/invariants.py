"""Check that a finished search has lost and doubled nothing, and equals the search without faults."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, select, text

from eatnas_db.database.transactions import read_transaction
from eatnas_db.integrity.check import list_violations
from eatnas_db.schema.trainings import checkpoint
from storm.searches import read_fingerprint
from storm.storm import Storm

DIGEST_BYTES: Final = 32
"""The bytes of the digest at the end of a checkpoint file."""
LOST: Final = {
    "candidates without a score": "SELECT count(*) FROM eatnas_candidate WHERE state <> 'scored'",
    "candidates missing": "SELECT budget_candidates - (SELECT count(*) FROM eatnas_candidate) FROM eatnas_search",
    "gaps in births": "SELECT max(birth) + 1 - count(DISTINCT birth) FROM eatnas_candidate",
    "gaps in steps": "SELECT (SELECT settled FROM eatnas_search) - count(*) FROM eatnas_step",
    "gaps in attempts": "SELECT count(*) FROM (SELECT max(number) - count(*) AS gap FROM eatnas_attempt "
    "GROUP BY candidate_id) WHERE gap <> 0",
    "parents missing": "SELECT count(*) FROM eatnas_candidate c LEFT JOIN eatnas_candidate p "
    "ON p.id = c.parent_id WHERE c.parent_id IS NOT NULL AND (p.id IS NULL OR p.birth >= c.birth)",
    "candidates with missing epochs": "SELECT count(*) FROM (SELECT count(e.number) AS done, coalesce((SELECT "
    "max(r.epochs) FROM eatnas_rung r WHERE r.candidate_id = c.id), (SELECT json_extract(spec, '$.training.epochs') "
    "FROM eatnas_search)) AS expected FROM eatnas_candidate c LEFT JOIN eatnas_epoch e ON e.candidate_id = c.id "
    "GROUP BY c.id) WHERE done <> expected",
    "gaps in rungs": "SELECT count(*) FROM (SELECT max(number) + 1 - count(*) AS gap FROM eatnas_rung "
    "GROUP BY candidate_id) WHERE gap <> 0",
    "rungs without a decision": "SELECT count(*) FROM eatnas_rung WHERE promoted IS NULL",
}
DOUBLED: Final = {
    "candidates scored twice": "SELECT count(*) FROM (SELECT count(*) AS n FROM eatnas_attempt "
    "WHERE outcome = 'scored' GROUP BY candidate_id) WHERE n <> 1",
    "scores reported twice": "SELECT count(*) FROM (SELECT count(*) AS n FROM eatnas_event "
    "WHERE kind = 'scored' GROUP BY candidate_id) WHERE n <> 1",
    "rungs trained twice": "SELECT count(*) FROM (SELECT count(*) AS n, (SELECT count(*) FROM eatnas_rung r WHERE "
    "r.candidate_id = a.candidate_id) AS rungs FROM eatnas_attempt a WHERE outcome IN ('rung', 'scored') "
    "GROUP BY candidate_id) WHERE rungs > 0 AND n <> rungs",
    "rungs reported twice": "SELECT count(*) FROM (SELECT count(*) AS n FROM eatnas_event WHERE kind IN "
    "('rung_reached', 'promoted', 'stopped') GROUP BY candidate_id, kind, json_extract(detail, '$.rung')) WHERE n <> 1",
    "attempts without an end": "SELECT count(*) FROM eatnas_attempt WHERE ended_at IS NULL",
    "leases left": "SELECT count(*) FROM eatnas_lease",
    "networks trained twice": "SELECT count(*) - count(DISTINCT architecture_id) FROM eatnas_candidate",
}
DIFFERING: Final = {
    "epochs with other results": "SELECT count(*) FROM eatnas_event WHERE kind = 'replay_differs'",
}


@dataclass(frozen=True)
class SearchCheck:
    """The numbers of lost, doubled and differing items of a search, and its problems."""

    lost: int
    doubled: int
    differing: int
    problems: list[str]
    fingerprint: str | None = None
    orphans: int = 0
    """The number of workers that are still running."""


def check_search(storm: Storm, expected_fingerprint: str) -> SearchCheck:
    """Compare the search of a storm with the undisturbed search."""
    problems: list[str] = []
    with read_transaction(storm.engine) as connection:
        lost = _count(connection, LOST, problems)
        doubled = _count(connection, DOUBLED, problems)
        differing = _count(connection, DIFFERING, problems)
        problems += _find_damage(connection, storm.settings.artifacts)
    problems += map(str, list_violations(storm.engine, storm.settings.artifacts))
    fingerprint = read_fingerprint(storm.engine)
    if fingerprint != expected_fingerprint:
        differing += 1
        problems.append(f"the fingerprint is {fingerprint}; without faults, it is {expected_fingerprint}")
    orphans = len(storm.workers_left())
    if orphans:
        problems.append(f"{orphans} workers are still running")
    return SearchCheck(
        lost=lost,
        doubled=doubled,
        differing=differing,
        problems=problems,
        fingerprint=fingerprint,
        orphans=orphans,
    )


def _count(connection: Connection, queries: dict[str, str], problems: list[str]) -> int:
    """Return the number of violations. Append a line for each violated rule to `problems`."""
    counts = {what: int(connection.execute(text(query)).scalar_one()) for what, query in queries.items()}
    problems += [f"{count} {what}" for what, count in counts.items() if count]
    return sum(abs(count) for count in counts.values())


def _find_damage(connection: Connection, artifacts: Path) -> list[str]:
    """Describe the damage to the database file and the checkpoint files."""
    intact = connection.execute(text("PRAGMA integrity_check")).scalars().all()
    dangling = connection.execute(text("PRAGMA foreign_key_check")).all()
    problems = [f"the database is damaged: {line}" for line in intact if line != "ok"]
    if dangling:
        problems.append(f"the database is damaged: {len(dangling)} rows refer to missing rows")
    for row in connection.execute(select(checkpoint.c.path, checkpoint.c.digest)):
        file = artifacts / row.path
        if not file.exists() or hashlib.sha256(file.read_bytes()[:-DIGEST_BYTES]).hexdigest() != row.digest:
            problems.append(f"{row.path} is missing or differs from its row")
    return problems
