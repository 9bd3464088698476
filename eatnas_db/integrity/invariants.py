"""The invariants that plain SQL can check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text

from eatnas_db.database.transactions import read_transaction
from eatnas_db.integrity.violations import Violation, summarize_offenders


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule about rows; `offenders` is a query for the ids or names of the rows that break it."""

    description: str
    what: str
    offenders: str


def check_invariants(engine: Engine) -> Iterator[Violation]:
    """Yield a violation for each invariant that some rows break."""
    for invariant in INVARIANTS:
        with read_transaction(engine) as connection:
            offenders = connection.execute(text(invariant.offenders)).scalars().all()
        yield from summarize_offenders(invariant.description, invariant.what, offenders)


INVARIANTS: Final = (
    Invariant(
        description="a candidate has scores and a scored attempt if and only if it is scored",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN eatnas_attempt AS a ON a.candidate_id = c.id AND a.number = c.attempt
        WHERE CASE WHEN c.state = 'scored' THEN
            a.outcome IS NULL OR a.outcome <> 'scored' OR NOT EXISTS (
                SELECT 1 FROM eatnas_score AS s WHERE s.candidate_id = c.id AND s.attempt = c.attempt)
        ELSE
            a.outcome = 'scored' OR EXISTS (SELECT 1 FROM eatnas_score AS s WHERE s.candidate_id = c.id)
        END
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="the attempts of a candidate are numbered without gaps from 1 to its last attempt",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN (
            SELECT candidate_id, count(*) AS total, min(number) AS first, max(number) AS last
            FROM eatnas_attempt GROUP BY candidate_id
        ) AS a ON a.candidate_id = c.id
        WHERE c.attempt <> coalesce(a.total, 0) OR a.first <> 1 OR a.last <> a.total
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="each candidate in training, and no other, has an open attempt, which is its last one",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN (
            SELECT candidate_id, count(*) AS open_attempts, max(number) AS number
            FROM eatnas_attempt WHERE ended_at IS NULL GROUP BY candidate_id
        ) AS a ON a.candidate_id = c.id
        WHERE CASE WHEN c.state = 'leased' THEN a.open_attempts IS NULL OR a.open_attempts <> 1 OR a.number <> c.attempt
            ELSE a.open_attempts IS NOT NULL END
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="each candidate in training, and no other, has a lease, which is for its last attempt",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c LEFT JOIN eatnas_lease AS l ON l.candidate_id = c.id
        WHERE (c.state = 'leased' AND l.candidate_id IS NULL)
            OR (l.candidate_id IS NOT NULL AND (c.state <> 'leased' OR l.attempt <> c.attempt))
        UNION
        SELECT l.candidate_id FROM eatnas_lease AS l
        WHERE NOT EXISTS (SELECT 1 FROM eatnas_candidate AS c WHERE c.id = l.candidate_id)
        ORDER BY 1
        """,
    ),
    Invariant(
        description="the host of each lease is recorded, so that the lease can be taken back",
        what="candidates",
        offenders="""
        SELECT l.candidate_id FROM eatnas_lease AS l
        WHERE NOT EXISTS (SELECT 1 FROM eatnas_host AS h WHERE h.id = l.host_id)
        ORDER BY 1
        """,
    ),
    Invariant(
        description="births are numbered without gaps from 0",
        what="searches",
        offenders="""
        SELECT s.name FROM eatnas_search AS s
        JOIN (
            SELECT search_id, count(*) AS total, min(birth) AS first, max(birth) AS last
            FROM eatnas_candidate GROUP BY search_id
        ) AS c ON c.search_id = s.id
        WHERE c.first <> 0 OR c.last <> c.total - 1
        ORDER BY s.id
        """,
    ),
    Invariant(
        description="a search's counts of born and scored candidates match its rows of candidates",
        what="searches",
        offenders="""
        SELECT s.name FROM eatnas_search AS s
        LEFT JOIN (
            SELECT search_id, count(*) AS total, sum(CASE WHEN state = 'scored' THEN 1 ELSE 0 END) AS scored
            FROM eatnas_candidate GROUP BY search_id
        ) AS c ON c.search_id = s.id
        WHERE s.born <> coalesce(c.total, 0) OR s.scored <> coalesce(c.scored, 0) OR s.settled > s.born
        ORDER BY s.id
        """,
    ),
    Invariant(
        description="steps are numbered without gaps from 1 to the count of settled births",
        what="searches",
        offenders="""
        SELECT s.name FROM eatnas_search AS s
        LEFT JOIN (
            SELECT search_id, count(*) AS total, min(number) AS first, max(number) AS last
            FROM eatnas_step GROUP BY search_id
        ) AS t ON t.search_id = s.id
        WHERE s.settled <> coalesce(t.total, 0) OR t.first <> 1 OR t.last <> t.total
        ORDER BY s.id
        """,
    ),
    Invariant(
        description="settled births have ended",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_search AS s
        JOIN eatnas_candidate AS c ON c.search_id = s.id AND c.birth < s.settled
        WHERE c.state IN ('pending', 'leased', 'waiting')
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="a scored candidate joined the population at its own step and did not leave it earlier",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_search AS s JOIN eatnas_candidate AS c ON c.search_id = s.id
        WHERE c.joined <> c.birth + 1 OR c.joined > s.settled OR c."left" > s.settled OR c."left" < c.joined
            OR (c.joined IS NULL AND c."left" IS NOT NULL)
            OR (c.joined IS NULL AND c.state = 'scored' AND c.birth < s.settled)
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="a step stores the size of its population, which does not exceed the limit",
        what="steps",
        offenders="""
        WITH moves AS (
            SELECT search_id, joined AS number, 1 AS difference FROM eatnas_candidate WHERE joined IS NOT NULL
            UNION ALL
            SELECT search_id, "left", -1 FROM eatnas_candidate WHERE "left" IS NOT NULL
        ), change AS (
            SELECT search_id, number, sum(difference) AS difference FROM moves GROUP BY search_id, number
        ), steps AS (
            SELECT t.search_id, t.number, t.size,
                sum(coalesce(change.difference, 0)) OVER (PARTITION BY t.search_id ORDER BY t.number) AS members
            FROM eatnas_step AS t
            LEFT JOIN change ON change.search_id = t.search_id AND change.number = t.number
        )
        SELECT 'step ' || steps.number || ' of ' || s.name
        FROM steps JOIN eatnas_search AS s ON s.id = steps.search_id
        WHERE steps.size <> steps.members OR steps.size > s.population
        ORDER BY s.id, steps.number
        """,
    ),
    Invariant(
        description="all bred candidates, and no others, have a parent, and each parent was born earlier",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c LEFT JOIN eatnas_candidate AS p ON p.id = c.parent_id
        WHERE CASE WHEN c.origin IN ('random', 'imported') THEN c.parent_id IS NOT NULL ELSE
            p.id IS NULL OR p.id >= c.id OR (p.search_id = c.search_id AND p.birth >= c.birth)
            OR (c.origin = 'mutation' AND p.search_id <> c.search_id)
        END
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="the accuracy of a candidate equals one of its scores",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        WHERE CASE WHEN c.accuracy IS NULL THEN
            c.fitness IS NOT NULL AND c.origin <> 'final'
            AND NOT EXISTS (SELECT 1 FROM eatnas_rung AS r WHERE r.candidate_id = c.id)
        ELSE
            c.fitness IS NULL OR c.origin = 'final'
            OR NOT EXISTS (SELECT 1 FROM eatnas_score AS s WHERE s.candidate_id = c.id AND s.value = c.accuracy)
        END
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="final models, and no others, are evaluated on the test part, and on no other part",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c JOIN eatnas_score AS s ON s.candidate_id = c.id
        WHERE (c.origin = 'final') <> (s.metric IN ('test_accuracy', 'test_loss'))
        UNION
        SELECT c.id FROM eatnas_candidate AS c JOIN eatnas_epoch AS e ON e.candidate_id = c.id
        WHERE e.metrics IS NULL
            AND ((c.origin = 'final') <> (e.val_loss IS NULL) OR (c.origin = 'final') <> (e.val_accuracy IS NULL))
        ORDER BY 1
        """,
    ),
)
