"""The invariants that plain SQL can state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text

from eatnas_db.database.transactions import read_transaction
from eatnas_db.integrity.violations import Violation, summarize


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule about rows; `offenders` is a query for the ids or names of the rows that break it."""

    description: str
    what: str
    offenders: str


def check_invariants(engine: Engine) -> Iterator[Violation]:
    """Yield the invariants that some rows break."""
    for invariant in INVARIANTS:
        with read_transaction(engine) as connection:
            offenders = connection.execute(text(invariant.offenders)).scalars().all()
        yield from summarize(invariant.description, invariant.what, offenders)


INVARIANTS: Final = (
    Invariant(
        description="a candidate has scores and a scored attempt exactly when it is scored",
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
        description="attempts are gapless from 1 to the candidate's last",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN (
            SELECT candidate_id, count(*) AS made, min(number) AS first, max(number) AS last
            FROM eatnas_attempt GROUP BY candidate_id
        ) AS a ON a.candidate_id = c.id
        WHERE c.attempt <> coalesce(a.made, 0) OR a.first <> 1 OR a.last <> a.made
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="a candidate has one living attempt while it is in training, its last, and none otherwise",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN (
            SELECT candidate_id, count(*) AS living, max(number) AS number
            FROM eatnas_attempt WHERE ended_at IS NULL GROUP BY candidate_id
        ) AS a ON a.candidate_id = c.id
        WHERE CASE WHEN c.state = 'leased' THEN a.living IS NULL OR a.living <> 1 OR a.number <> c.attempt
            ELSE a.living IS NOT NULL END
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="a candidate has a lease, of its last attempt, exactly while it is in training",
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
        description="births are gapless from 0",
        what="searches",
        offenders="""
        SELECT s.name FROM eatnas_search AS s
        JOIN (
            SELECT search_id, count(*) AS made, min(birth) AS first, max(birth) AS last
            FROM eatnas_candidate GROUP BY search_id
        ) AS c ON c.search_id = s.id
        WHERE c.first <> 0 OR c.last <> c.made - 1
        ORDER BY s.id
        """,
    ),
    Invariant(
        description="the counts of candidates born and scored are those of the rows",
        what="searches",
        offenders="""
        SELECT s.name FROM eatnas_search AS s
        LEFT JOIN (
            SELECT search_id, count(*) AS made, sum(CASE WHEN state = 'scored' THEN 1 ELSE 0 END) AS scored
            FROM eatnas_candidate GROUP BY search_id
        ) AS c ON c.search_id = s.id
        WHERE s.born <> coalesce(c.made, 0) OR s.scored <> coalesce(c.scored, 0) OR s.settled > s.born
        ORDER BY s.id
        """,
    ),
    Invariant(
        description="steps are gapless from 1 to the count of settled births",
        what="searches",
        offenders="""
        SELECT s.name FROM eatnas_search AS s
        LEFT JOIN (
            SELECT search_id, count(*) AS made, min(number) AS first, max(number) AS last
            FROM eatnas_step GROUP BY search_id
        ) AS t ON t.search_id = s.id
        WHERE s.settled <> coalesce(t.made, 0) OR t.first <> 1 OR t.last <> t.made
        ORDER BY s.id
        """,
    ),
    Invariant(
        description="births before the count of settled ones have ended, or were retried since",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_search AS s
        JOIN eatnas_candidate AS c ON c.search_id = s.id AND c.birth < s.settled
        WHERE c.state IN ('pending', 'leased') AND NOT EXISTS (
            SELECT 1 FROM eatnas_event AS e WHERE e.candidate_id = c.id AND e.kind = 'retried')
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="a scored candidate joined the population at its own step, and left it, if at all, not before",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_search AS s JOIN eatnas_candidate AS c ON c.search_id = s.id
        WHERE c.joined <> c.birth + 1 OR c.joined > s.settled OR c."left" > s.settled OR c."left" < c.joined
            OR (c.joined IS NULL AND c."left" IS NOT NULL)
            OR (c.joined IS NULL AND c.state = 'scored' AND c.birth < s.settled AND NOT EXISTS (
                SELECT 1 FROM eatnas_event AS e WHERE e.candidate_id = c.id AND e.kind = 'retried'))
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="a step tells the size of its population, which is never over the limit",
        what="steps",
        offenders="""
        WITH moves AS (
            SELECT search_id, joined AS number, 1 AS by FROM eatnas_candidate WHERE joined IS NOT NULL
            UNION ALL
            SELECT search_id, "left", -1 FROM eatnas_candidate WHERE "left" IS NOT NULL
        ), change AS (
            SELECT search_id, number, sum(by) AS by FROM moves GROUP BY search_id, number
        ), told AS (
            SELECT t.search_id, t.number, t.size,
                sum(coalesce(change.by, 0)) OVER (PARTITION BY t.search_id ORDER BY t.number) AS living
            FROM eatnas_step AS t
            LEFT JOIN change ON change.search_id = t.search_id AND change.number = t.number
        )
        SELECT 'step ' || told.number || ' of ' || s.name FROM told JOIN eatnas_search AS s ON s.id = told.search_id
        WHERE told.size <> told.living OR told.size > s.population
        ORDER BY s.id, told.number
        """,
    ),
    Invariant(
        description="a parent exists and was born before its child, and who was bred has one",
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
        description="a candidate repeats its accuracy",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN eatnas_score AS s ON s.candidate_id = c.id AND s.metric = 'val_accuracy'
        WHERE coalesce(c.accuracy, -1) <> coalesce(s.value, -1)
        ORDER BY c.id
        """,
    ),
    Invariant(
        description="final models are measured on the test part and on nothing else, and nobody else is",
        what="candidates",
        offenders="""
        SELECT c.id FROM eatnas_candidate AS c JOIN eatnas_score AS s ON s.candidate_id = c.id
        WHERE (c.origin = 'final') <> (s.metric IN ('test_accuracy', 'test_loss'))
        UNION
        SELECT c.id FROM eatnas_candidate AS c JOIN eatnas_epoch AS e ON e.candidate_id = c.id
        WHERE (c.origin = 'final') <> (e.val_loss IS NULL) OR (c.origin = 'final') <> (e.val_accuracy IS NULL)
        ORDER BY 1
        """,
    ),
)
