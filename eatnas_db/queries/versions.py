"""Compute a short string that changes with the record of a search, so that a reader knows when to read again."""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy import Connection, func, or_, select

from eatnas_db.domain.states import SearchKind
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.record import record as identity
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch, lease

RETRAININGS: Final = (SearchKind.REEVALUATION, SearchKind.RETRY, SearchKind.FINAL)


def get_version(connection: Connection, record: SearchRecord) -> str:
    """Return a digest of the state of a search. The queries read only small index ranges, even in a long search.

    The digest changes with each event of the search and its retrainings, each new epoch, and each change of its status.
    """
    is_retraining = (search.c.source_id == record.id) & search.c.kind.in_(RETRAININGS)
    searches = select(search.c.id).where(or_(search.c.id == record.id, is_retraining))
    last_events = [
        connection.execute(select(func.max(event.c.id)).where(event.c.search_id == search_id)).scalar()
        for search_id in connection.execute(searches).scalars()
    ]
    epochs = (
        select(func.count(), func.max(epoch.c.ended_at))
        .select_from(lease)
        .join(candidate, candidate.c.id == lease.c.candidate_id)
        .join(epoch, epoch.c.candidate_id == lease.c.candidate_id)
        .where(candidate.c.search_id == record.id)
    )
    uuid = connection.execute(select(identity.c.uuid)).scalar()
    state = (
        uuid,
        record.id,
        record.name,
        record.created_at,
        record.status,
        record.born,
        record.settled,
        record.scored,
        record.device_seconds,
        last_events,
        tuple(connection.execute(epochs).one()),
    )
    return hashlib.sha256(repr(state).encode()).hexdigest()[:32]
