"""Delete a search with all its rows in the record."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, delete, or_, select

from eatnas_db.database.batches import split_in_batches
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.states import SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_event
from eatnas_db.queries.final_models import list_needed_sources
from eatnas_db.queries.progress import count_leased
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.candidates import candidate, mutation, prediction
from eatnas_db.schema.events import event
from eatnas_db.schema.holds import hold
from eatnas_db.schema.searches import search, step, transfer_source
from eatnas_db.schema.trainings import attempt, checkpoint, epoch, lease, measurement, rung, score


@dataclass(frozen=True, slots=True)
class DeletedSearch:
    """The id and name of a deleted search, and the ids of its candidates."""

    id: int
    name: str
    candidate_ids: tuple[int, ...]


def require_deletable(connection: Connection, name: str) -> int:
    """Check that nothing depends on a search, and return the number of its candidates.

    Raises `NotFoundError`. Raises `ConflictError` if other searches were made from this search or need its weights, or
    if any of its candidates is in training.
    """
    record = get_search(connection, name)
    modelled = select(transfer_source.c.search_id).where(transfer_source.c.source_id == record.id)
    comes_from = or_(search.c.source_id == record.id, search.c.id.in_(modelled))
    children = select(search.c.name).where(comes_from).order_by(search.c.id)
    if names := connection.execute(children).scalars().all():
        listed = ", ".join(names)
        raise ConflictError(f"search {name!r} cannot be deleted: it is the source of {listed}; delete {listed} first")
    needed = list_needed_sources(connection)
    of_search = select(candidate.c.id).where(candidate.c.search_id == record.id, candidate.c.id.in_(needed))
    if (source := connection.execute(of_search.order_by(candidate.c.id)).scalars().first()) is not None:
        raise ConflictError(
            f"search {name!r} cannot be deleted: {needed[source]} starts from the weights of its candidate {source}; "
            f"run `eatnas-db run {needed[source]}` to its end, or delete {needed[source]} first"
        )
    if training := count_leased(connection, record.id):
        raise ConflictError(
            f"search {name!r} cannot be deleted: candidates are in training ({training} now); "
            f"`eatnas-db search cancel {name}` ends the trainings"
        )
    return record.born


def delete_search(connection: Connection, name: str, now: float) -> DeletedSearch:
    """Delete a search, its candidates, their trainings and their events. Keep architectures, which searches share.

    The caller deletes the files. Raises `NotFoundError` or `ConflictError`, as `require_deletable` does.
    """
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    require_deletable(connection, name)
    record = get_search(connection, name)
    search_id = record.id
    candidates = select(candidate.c.id).where(candidate.c.search_id == search_id)
    candidate_ids = tuple(connection.execute(candidates).scalars())
    # Record this event before the others are deleted: it keeps the highest id, so no later event gets the id of a
    # deleted event, and readers find new events by their ids.
    record_event(connection, now, "deleted", detail={"search": name, "candidates": len(candidate_ids)})
    for table in (score, rung, measurement, epoch, checkpoint, lease, mutation, prediction, attempt):
        connection.execute(delete(table).where(table.c.candidate_id.in_(candidates)))
    connection.execute(delete(event).where(or_(event.c.search_id == search_id, event.c.candidate_id.in_(candidates))))
    if record.kind == SearchKind.RETRY:
        _forget_retries(connection, record)
    for table in (candidate, step, hold, transfer_source):
        connection.execute(delete(table).where(table.c.search_id == search_id))
    connection.execute(delete(search).where(search.c.id == search_id))
    return DeletedSearch(id=search_id, name=name, candidate_ids=candidate_ids)


def _forget_retries(connection: Connection, record: SearchRecord) -> None:
    """Delete the events of the retries in a search, so that the failed candidates may be retried again."""
    retried = select(event.c.id, event.c.detail).where(event.c.search_id == record.source_id, event.c.kind == "retried")
    ids = [row.id for row in connection.execute(retried) if json.loads(row.detail)["search"] == record.name]
    for batch in split_in_batches(ids):
        connection.execute(delete(event).where(event.c.id.in_(batch)))
