"""Replay the decisions at rungs, which follow from the spec and from the results of earlier births."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Engine, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.rungs import COMPARED_BIRTHS, RungResult, Rungs, is_promoted, rungs_of
from eatnas_db.domain.states import CandidateState, SearchKind
from eatnas_db.errors import EatnasError
from eatnas_db.integrity.violations import Violation, summarize_offenders
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import rung


class _RungRow(NamedTuple):
    """A candidate at a rung."""

    id: int
    birth: int
    state: str
    candidate_fitness: float | None
    last_rung: int
    number: int
    epochs: int
    fitness: float
    promoted: bool | None


def check_rungs(engine: Engine) -> Iterator[Violation]:
    """Yield the results and the decisions at rungs that differ from the rules in `domain.rungs`."""
    results: list[int] = []
    decisions: list[int] = []
    with read_transaction(engine) as connection:
        searches = [row for row in list_searches(connection) if row.kind == SearchKind.EVOLUTION]
    for record in searches:
        # The replay of births reports a search whose spec cannot be read.
        with suppress(EatnasError, AttributeError, KeyError, TypeError, ValueError):
            if rungs_of(record.spec) is not None:
                found = _check_search(record, _read_rows(engine, record))
                results += found[0]
                decisions += found[1]
    yield from summarize_offenders("a scored candidate has the score of its last rung", "candidates", results)
    yield from summarize_offenders(
        "a candidate continues after a rung if and only if its result is among the best so far", "candidates", decisions
    )


def _read_rows(engine: Engine, record: SearchRecord) -> list[_RungRow]:
    columns: list[Any] = [
        candidate.c.id,
        candidate.c.birth,
        candidate.c.state,
        candidate.c.fitness,
        candidate.c.rung,
        rung.c.number,
        rung.c.epochs,
        rung.c.fitness,
        rung.c.promoted,
    ]
    query = select(*columns).outerjoin(rung, rung.c.candidate_id == candidate.c.id)
    of_search = query.where(candidate.c.search_id == record.id, candidate.c.attempt > 0)
    with read_transaction(engine) as connection:
        return [_RungRow(*row) for row in connection.execute(of_search.order_by(candidate.c.birth, rung.c.number))]


def _check_search(record: SearchRecord, rows: Sequence[_RungRow]) -> tuple[list[int], list[int]]:
    """Return the ids of candidates with a wrong result, and the ids of candidates with a wrong decision."""
    rungs = rungs_of(record.spec)
    assert rungs is not None
    results = [
        candidate_id for candidate_id, group in groupby(rows, attrgetter("id")) if not _is_sound(list(group), rungs)
    ]
    decisions = []
    by_rung: dict[int, dict[int, RungResult]] = {number: {} for number in range(len(rungs.epochs))}
    for row in rows:
        if row.number is None or row.promoted is None or row.number not in by_rung:
            continue
        known = by_rung[row.number]
        end = row.birth - record.lag + 1
        earlier = [known[birth] for birth in range(max(0, end - COMPARED_BIRTHS), max(0, end)) if birth in known]
        expected = row.number < rungs.last and is_promoted(row.fitness, earlier, rungs.keep)
        if row.promoted != expected:
            decisions.append(row.id)
        known[row.birth] = RungResult(row.fitness, row.promoted)
    return results, sorted(set(decisions))


def _is_sound(reached: Sequence[_RungRow], rungs: Rungs) -> bool:
    """Return whether the rungs of a candidate have no gaps and its score is the score at its last rung."""
    last = reached[-1]
    if last.number is None:
        return last.state != CandidateState.SCORED
    numbers = [row.number for row in reached]
    if numbers != list(range(len(reached))) or last.number > rungs.last:
        return False
    if any(row.epochs != rungs.epochs[row.number] for row in reached):
        return False
    if not all(row.promoted for row in reached[:-1]):
        return False
    if last.state != CandidateState.SCORED:
        return last.candidate_fitness is None and (last.state != CandidateState.WAITING or last.promoted is None)
    return (last.candidate_fitness, last.last_rung, last.promoted) == (last.fitness, last.number, False)
