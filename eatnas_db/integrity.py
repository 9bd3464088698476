"""Whether a record keeps its invariants: each is a query, or where SQL cannot say it a pure function over rows.

Each looks in a short transaction of its own, so a record may be checked while it is in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select, text

from eatnas_db.database.dialects import on_server
from eatnas_db.database.transactions import reading
from eatnas_db.domain.architecture import Architecture, Block, digest
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.recipe import inherits, recipe_of
from eatnas_db.domain.space import Space, differences
from eatnas_db.domain.states import CandidateState, Origin
from eatnas_db.errors import EatnasError, RecordError
from eatnas_db.schema.candidates import architecture, candidate, mutation
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint, epoch

SHOWN: Final = 5
_AT_A_TIME: Final = 5000
_BYTES_AT_A_TIME: Final = 1 << 20
_DIGEST_BYTES: Final = 32
"""A checkpoint file ends in the SHA-256 of what comes before it."""


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that does not hold: for how many of what, and the first few of them."""

    invariant: str
    what: str
    count: int
    examples: tuple[int | str, ...]

    def __str__(self) -> str:
        more = f", … ({self.count} in all)" if self.count > len(self.examples) else ""
        return f"{self.invariant}: not so for {self.what} {', '.join(map(str, self.examples))}{more}"


def list_breaches(engine: Engine, artifacts: Path, *, whole_files: bool = False) -> Iterator[Breach]:
    """Every invariant that does not hold. `whole_files`: read checkpoints to their end, beyond their sizes."""
    on_sqlite = not on_server(engine)
    damage = _check_file(engine) if on_sqlite else []
    yield from damage
    try:
        if on_sqlite:
            yield from _check_references(engine)
        for invariant, what, query in _QUERIES:
            with reading(engine) as connection:
                yield from _breach(invariant, what, connection.execute(text(query)).scalars().all())
        yield from _check_epochs(engine)
        yield from _check_genotypes(engine)
        yield from _check_files(engine, artifacts, whole_files)
    except RecordError:
        if not damage:  # else that was told, and is why no more can be read
            raise


def _breach(invariant: str, what: str, found: Iterable[Any]) -> list[Breach]:
    listed = list(found)
    return [Breach(invariant, what, len(listed), tuple(listed[:SHOWN]))] if listed else []


def _check_file(engine: Engine) -> list[Breach]:
    with reading(engine) as connection:
        told = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return _breach("the database is whole", "places", [" ".join(line.split()) for line in told if line != "ok"])


def _check_references(engine: Engine) -> list[Breach]:
    """What constraints hold to, in a database that somebody opened without them."""
    with reading(engine) as connection:
        loose = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    rows = [
        f"{table} without its {target}" + ("" if row is None else f" (row {row})") for table, row, target, _ in loose
    ]
    return _breach("every row that is named exists", "rows", rows)


# Words, what a query finds, and the query: it finds what is not so. Plain SQL, for it is to be read.
_QUERIES: Final = (
    (
        "a candidate has scores and a scored attempt exactly when it is scored",
        "candidates",
        """
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
    (
        "attempts are gapless from 1 to the candidate's last",
        "candidates",
        """
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN (
            SELECT candidate_id, count(*) AS made, min(number) AS first, max(number) AS last
            FROM eatnas_attempt GROUP BY candidate_id
        ) AS a ON a.candidate_id = c.id
        WHERE c.attempt <> coalesce(a.made, 0) OR a.first <> 1 OR a.last <> a.made
        ORDER BY c.id
        """,
    ),
    (
        "a candidate has one living attempt while it is in training, its last, and none otherwise",
        "candidates",
        """
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
    (
        "a candidate has a lease, of its last attempt, exactly while it is in training",
        "candidates",
        """
        SELECT c.id FROM eatnas_candidate AS c LEFT JOIN eatnas_lease AS l ON l.candidate_id = c.id
        WHERE (c.state = 'leased' AND l.candidate_id IS NULL)
            OR (l.candidate_id IS NOT NULL AND (c.state <> 'leased' OR l.attempt <> c.attempt))
        UNION
        SELECT l.candidate_id FROM eatnas_lease AS l
        WHERE NOT EXISTS (SELECT 1 FROM eatnas_candidate AS c WHERE c.id = l.candidate_id)
        ORDER BY 1
        """,
    ),
    (
        "births are gapless from 0",
        "searches",
        """
        SELECT s.name FROM eatnas_search AS s
        JOIN (
            SELECT search_id, count(*) AS made, min(birth) AS first, max(birth) AS last
            FROM eatnas_candidate GROUP BY search_id
        ) AS c ON c.search_id = s.id
        WHERE c.first <> 0 OR c.last <> c.made - 1
        ORDER BY s.id
        """,
    ),
    (
        "the counts of candidates born and scored are those of the rows",
        "searches",
        """
        SELECT s.name FROM eatnas_search AS s
        LEFT JOIN (
            SELECT search_id, count(*) AS made, sum(CASE WHEN state = 'scored' THEN 1 ELSE 0 END) AS scored
            FROM eatnas_candidate GROUP BY search_id
        ) AS c ON c.search_id = s.id
        WHERE s.born <> coalesce(c.made, 0) OR s.scored <> coalesce(c.scored, 0) OR s.settled > s.born
        ORDER BY s.id
        """,
    ),
    (
        "steps are gapless from 1 to the count of settled births",
        "searches",
        """
        SELECT s.name FROM eatnas_search AS s
        LEFT JOIN (
            SELECT search_id, count(*) AS made, min(number) AS first, max(number) AS last
            FROM eatnas_step GROUP BY search_id
        ) AS t ON t.search_id = s.id
        WHERE s.settled <> coalesce(t.made, 0) OR t.first <> 1 OR t.last <> t.made
        ORDER BY s.id
        """,
    ),
    (
        "births before the count of settled ones have ended, or were retried since",
        "candidates",
        """
        SELECT c.id FROM eatnas_search AS s
        JOIN eatnas_candidate AS c ON c.search_id = s.id AND c.birth < s.settled
        WHERE c.state IN ('pending', 'leased') AND NOT EXISTS (
            SELECT 1 FROM eatnas_event AS e WHERE e.candidate_id = c.id AND e.kind = 'retried')
        ORDER BY c.id
        """,
    ),
    (
        "a scored candidate joined the population at its own step, and left it, if at all, not before",
        "candidates",
        """
        SELECT c.id FROM eatnas_search AS s JOIN eatnas_candidate AS c ON c.search_id = s.id
        WHERE c.joined <> c.birth + 1 OR c.joined > s.settled OR c."left" > s.settled OR c."left" < c.joined
            OR (c.joined IS NULL AND c."left" IS NOT NULL)
            OR (c.joined IS NULL AND c.state = 'scored' AND c.birth < s.settled AND NOT EXISTS (
                SELECT 1 FROM eatnas_event AS e WHERE e.candidate_id = c.id AND e.kind = 'retried'))
        ORDER BY c.id
        """,
    ),
    (
        "a step tells the size of its population, which is never over the limit",
        "steps",
        """
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
    (
        "a parent exists and was born before its child, and who was bred has one",
        "candidates",
        """
        SELECT c.id FROM eatnas_candidate AS c LEFT JOIN eatnas_candidate AS p ON p.id = c.parent_id
        WHERE CASE WHEN c.origin IN ('random', 'imported') THEN c.parent_id IS NOT NULL ELSE
            p.id IS NULL OR p.id >= c.id OR (p.search_id = c.search_id AND p.birth >= c.birth)
            OR (c.origin = 'mutation' AND p.search_id <> c.search_id)
        END
        ORDER BY c.id
        """,
    ),
    (
        "a candidate repeats its accuracy",
        "candidates",
        """
        SELECT c.id FROM eatnas_candidate AS c
        LEFT JOIN eatnas_score AS s ON s.candidate_id = c.id AND s.metric = 'val_accuracy'
        WHERE coalesce(c.accuracy, -1) <> coalesce(s.value, -1)
        ORDER BY c.id
        """,
    ),
    (
        "final models are measured on the test part and on nothing else, and nobody else is",
        "candidates",
        """
        SELECT c.id FROM eatnas_candidate AS c JOIN eatnas_score AS s ON s.candidate_id = c.id
        WHERE (c.origin = 'final') <> (s.metric IN ('test_accuracy', 'test_loss'))
        UNION
        SELECT c.id FROM eatnas_candidate AS c JOIN eatnas_epoch AS e ON e.candidate_id = c.id
        WHERE (c.origin = 'final') <> (e.val_loss IS NULL) OR (c.origin = 'final') <> (e.val_accuracy IS NULL)
        ORDER BY 1
        """,
    ),
)


def _check_epochs(engine: Engine) -> list[Breach]:
    gaps: list[int] = []
    with reading(engine) as connection:
        specs = {row.id: row.spec for row in connection.execute(select(search.c.id, search.c.spec))}
        trained = (
            select(
                candidate.c.id,
                candidate.c.search_id,
                candidate.c.origin,
                candidate.c.parent_id,
                candidate.c.state,
                func.count(epoch.c.number).label("made"),
                func.min(epoch.c.number).label("first"),
                func.max(epoch.c.number).label("last"),
            )
            .outerjoin(epoch, epoch.c.candidate_id == candidate.c.id)
            .group_by(candidate.c.id)
            .order_by(candidate.c.id)
        )
        for row in connection.execute(trained).yield_per(_AT_A_TIME):
            gapless = row.made == 0 or (row.first, row.last) == (0, row.made - 1)
            if not gapless or (row.state == CandidateState.SCORED and row.made != _epochs(specs[row.search_id], row)):
                gaps.append(row.id)
    return _breach("epochs are gapless from 0, and a scored candidate has all of them", "candidates", gaps)


def _epochs(spec: dict[str, Any], row: Any) -> int:
    same_search = row.origin == Origin.MUTATION
    inheriting = row.parent_id is not None and inherits(spec, origin=row.origin, same_search=same_search)
    return int(recipe_of(spec, inheriting=inheriting)["epochs"])


@dataclass(slots=True)
class _Genotypes:
    """What the pure functions found in the rows they were given."""

    spaces: dict[int, Space]
    unlike: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)

    def judge(self, row: Any, mutations: list[tuple[int, str, str, str]]) -> None:
        try:
            child = _architecture(row.code)
            effective = self.spaces[row.search_id].effective(child)
            if str(effective) != row.genotype or digest(effective) != row.digest:
                self.unlike.append(row.id)
            # Where there is no parent, or it is gone, nothing can have changed.
            changes = () if row.parent_code is None else differences(_architecture(row.parent_code), child)
            if [(one.block, one.primitive, str(one.before), str(one.after)) for one in changes] != mutations:
                self.changed.append(row.id)
        except (EatnasError, ValueError):
            self.unlike.append(row.id)


def _check_genotypes(engine: Engine) -> list[Breach]:
    with reading(engine) as connection:
        rows = connection.execute(select(search.c.id, search.c.macro, search.c.task)).all()
    found = _Genotypes({row.id: Space(_macro(row.macro), Task(**row.task)) for row in rows})
    last = 0
    while True:
        with reading(engine) as connection:
            after = _judge_some(connection, last, found)
        if after is None:
            break
        last = after
    return _breach(
        "an architecture's digest is that of its effective genotype, and that is its candidate's",
        "candidates",
        found.unlike,
    ) + _breach("mutations tell what differs between parent and child", "candidates", found.changed)


def _judge_some(connection: Connection, last: int, found: _Genotypes) -> int | None:
    parent = candidate.alias("parent")
    rows = connection.execute(
        select(
            candidate.c.id,
            candidate.c.search_id,
            candidate.c.code,
            parent.c.code.label("parent_code"),
            architecture.c.digest,
            architecture.c.genotype,
        )
        .outerjoin(parent, parent.c.id == candidate.c.parent_id)
        .join(architecture, architecture.c.id == candidate.c.architecture_id)
        .where(candidate.c.id > last)
        .order_by(candidate.c.id)
        .limit(_AT_A_TIME)
    ).all()
    if not rows:
        return None
    changes = connection.execute(
        select(*(mutation.c[name] for name in ("candidate_id", "block", "primitive", "before", "after")))
        .where(mutation.c.candidate_id.between(rows[0].id, rows[-1].id))
        .order_by(mutation.c.candidate_id, mutation.c.ordinal)
    )
    told = {key: [tuple(row[1:]) for row in group] for key, group in groupby(changes, key=lambda row: row[0])}
    for row in rows:
        found.judge(row, told.get(row.id, []))
    return int(rows[-1].id)


def _macro(stored: dict[str, Any]) -> Macro:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Macro(**fields)


@cache
def _block(code: str) -> Block:
    """Of the few hundred that there are."""
    return Architecture.parse(code).blocks[0]


def _architecture(code: str) -> Architecture:
    return Architecture(tuple(map(_block, code.split("/"))))


def _check_files(engine: Engine, artifacts: Path, whole: bool) -> list[Breach]:
    columns = (checkpoint.c.path, checkpoint.c.bytes, checkpoint.c.digest)
    with reading(engine) as connection:
        rows = connection.execute(select(*columns).order_by(*columns)).all()
    missing, other = [], []
    for row in rows:
        file = artifacts / row.path
        try:
            if file.stat().st_size != row.bytes or (whole and not _is(file, row.digest)):
                other.append(row.path)
        except OSError:
            if not on_server(engine):  # else it may lie in another host's home
                missing.append(row.path)
    if missing or other:
        # Those that were collected meanwhile were right to go.
        with reading(engine) as connection:
            kept = set(connection.execute(select(checkpoint.c.path)).scalars())
        missing, other = ([path for path in paths if path in kept] for paths in (missing, other))
    return _breach("a checkpoint's file is there", "files", missing) + _breach(
        "a checkpoint's file has the size and the content that were recorded", "files", other
    )


def _is(file: Path, digest_of_content: str) -> bool:
    left = file.stat().st_size - _DIGEST_BYTES
    summed = hashlib.sha256()
    with file.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, _BYTES_AT_A_TIME))):
            summed.update(part)
            left -= len(part)
        return summed.hexdigest() == digest_of_content and stream.read() == summed.digest()
