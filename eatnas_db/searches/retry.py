"""Retry failed candidates: train them again outside the population of their search.

A failed candidate stays failed, because later births may have been decided from a population without it. Its retry is a
new candidate. The retries of an evolution belong to one search of kind `retry`. The retry of a re-evaluation or a final
model is another replica in the same search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, bindparam, select

from eatnas_db.database.batches import split_in_batches
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.states import CandidateState, DesiredState, Origin, SearchKind
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.events import record_events
from eatnas_db.queries.searches import SearchRecord, fetch_searches, get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import Retraining, append_retrainings, insert_retrainings, largest_replicas


class Retry(NamedTuple):
    """A failed candidate, and the new candidate that trains its architecture again in `search`."""

    failed_id: int
    retry_id: int
    search: str


def retry_candidates(connection: Connection, candidate_ids: Sequence[int], now: float) -> tuple[Retry, ...]:
    """Train failed candidates again, each once. Raises `NotFoundError` or `ConflictError`, and then changes nothing.

    The candidates may belong to several searches. A candidate can be retried once. If its retry also fails, the retry
    can be retried.
    """
    ids = list(dict.fromkeys(candidate_ids))
    _lock(connection, ids)
    rows = _select_in_batches(connection, _CANDIDATES, ids)
    _require_failed(connection, ids, rows)
    by_search: dict[int, list[Row[Any]]] = {}
    for row in rows:
        by_search.setdefault(row.search_id, []).append(row)
    retries: list[Retry] = []
    for search_id, failed in sorted(by_search.items()):
        retries += _retry_of_search(connection, lock_search(connection, search_id), failed, now)
    return tuple(retries)


def list_retried(connection: Connection, candidate_ids: Sequence[int]) -> set[int]:
    """Return the candidates among these that were retried before."""
    return set(_list_retries(connection, candidate_ids))


def _list_retries(connection: Connection, candidate_ids: Sequence[int]) -> dict[int, int]:
    """Return the retries of candidates that were retried, by candidate id. A cancelled retry does not count."""
    events = _select_in_batches(connection, _EARLIER_RETRIES, candidate_ids)
    retries = {row.candidate_id: int(json.loads(row.detail)["retry"]) for row in events}
    states = {row.id: row.state for row in _select_in_batches(connection, _CANDIDATES, list(retries.values()))}
    return {original: retry for original, retry in retries.items() if states.get(retry) != CandidateState.CANCELLED}


_CANDIDATES: Final = (
    select(
        candidate.c.id,
        candidate.c.search_id,
        candidate.c.birth,
        candidate.c.state,
        candidate.c.code,
        candidate.c.parent_id,
    )
    .where(candidate.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(candidate.c.search_id, candidate.c.birth)
)
_EARLIER_RETRIES: Final = (
    select(event.c.candidate_id, event.c.detail)
    .where(event.c.candidate_id.in_(bindparam("ids", expanding=True)), event.c.kind == "retried")
    .order_by(event.c.id)
)
_SEARCHES: Final = select(candidate.c.search_id).where(candidate.c.id.in_(bindparam("ids", expanding=True))).distinct()
_CHILDREN: Final = (
    select(candidate.c.id, candidate.c.birth)
    .where(candidate.c.search_id == bindparam("search_id"), candidate.c.birth >= bindparam("first"))
    .order_by(candidate.c.birth)
)


def _lock(connection: Connection, ids: Sequence[int]) -> None:
    """Lock the candidates' searches and the searches of their retries, in one statement and in the lock order."""
    own = {row.search_id for row in _select_in_batches(connection, _SEARCHES, ids)}
    retrying = (search.c.kind == SearchKind.RETRY) & search.c.source_id.in_(own)
    lock_searches(connection, select(search.c.id).where(search.c.id.in_(own) | retrying))


def _require_failed(connection: Connection, ids: Sequence[int], rows: Sequence[Row[Any]]) -> None:
    """Raise an error unless every candidate exists, has failed and was not retried before."""
    if missing := sorted(set(ids) - {row.id for row in rows}):
        raise NotFoundError(f"no candidate {missing[0]}; `eatnas-db query failures NAME` lists the failed candidates")
    for row in rows:
        if row.state != CandidateState.FAILED:
            raise ConflictError(
                f"cannot retry candidate {row.id}: it has not failed but is {row.state}; "
                "list failed candidates with `eatnas-db query failures NAME`"
            )
    for original, retry in _list_retries(connection, ids).items():
        raise ConflictError(
            f"cannot retry candidate {original}: candidate {retry} already retries it; if candidate {retry} fails too, "
            f"retry candidate {retry}"
        )


def _retry_of_search(
    connection: Connection, record: SearchRecord, failed: Sequence[Row[Any]], now: float
) -> list[Retry]:
    if record.wish == DesiredState.CANCELLED:
        raise ConflictError(f"cannot retry candidate {failed[0].id}: its search is cancelled, which cannot be undone")
    is_evolution = record.kind == SearchKind.EVOLUTION
    origin = Origin.RETRY if is_evolution else Origin(record.kind)
    originals = [row.id if is_evolution else row.parent_id for row in failed]
    used: dict[int, int] = {}
    for batch in split_in_batches(originals):
        used |= largest_replicas(connection, batch, origin)
    retrainings = []
    for row, original in zip(failed, originals, strict=True):
        used[original] = used.get(original, 0) + 1
        retrainings.append(Retraining(original, row.code, used[original]))
    target = _open_retry_search(connection, record) if is_evolution else record
    if target is None:
        training = record.spec["training"]
        name = insert_retrainings(connection, record, retrainings, kind=SearchKind.RETRY, training=training, now=now)
        target, first_birth = get_search(connection, name), 0
    else:
        if target.wish == DesiredState.PAUSED:
            raise ConflictError(
                f"cannot retry candidate {failed[0].id}: search {target.name!r}, which trains the retries, is paused; "
                f"run `eatnas-db search resume {target.name}` first"
            )
        append_retrainings(connection, target, retrainings, now)
        first_birth = target.born
    return _record_retries(connection, target, first_birth, failed, now)


def _record_retries(
    connection: Connection, target: SearchRecord, first_birth: int, failed: Sequence[Row[Any]], now: float
) -> list[Retry]:
    """Record an event of the failed candidate for each retry. The failed candidate itself stays unchanged."""
    born = connection.execute(_CHILDREN, {"search_id": target.id, "first": first_birth}).all()
    details = {
        row.id: {"retry": child.id, "search": target.name, "birth": row.birth}
        for row, child in zip(failed, born, strict=True)
    }
    search_id, ids = failed[0].search_id, [row.id for row in failed]
    record_events(connection, now, "retried", search_id=search_id, candidate_ids=ids, details=details)
    return [Retry(row.id, child.id, target.name) for row, child in zip(failed, born, strict=True)]


def _open_retry_search(connection: Connection, record: SearchRecord) -> SearchRecord | None:
    """Return the search that retries candidates of a search, or None if no such search exists or the search is
    cancelled.
    """
    query = (
        select(search)
        .where(
            search.c.source_id == record.id,
            search.c.kind == SearchKind.RETRY,
            search.c.wish != DesiredState.CANCELLED,
        )
        .order_by(search.c.id.desc())
        .limit(1)
    )
    return next(iter(fetch_searches(connection, query)), None)


def _select_in_batches(connection: Connection, query: Any, ids: Sequence[int]) -> list[Row[Any]]:
    return [row for batch in split_in_batches(ids) for row in connection.execute(query, {"ids": batch})]
