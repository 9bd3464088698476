"""What happened lately, as data and in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search

_WORDS: Final = {
    "leased": "attempt {attempt} begins",
    "scored": "attempt {attempt} ends with fitness {fitness}",
    "tested": "attempt {attempt} was looked at on the test part, once: accuracy {fitness}",
    "failed": "attempt {attempt} failed for good: {failure}",
    "taken_back": "attempt {attempt} ended without a score: {failure}; it waits for another try",
    "to_be_alone": "memory was out; the next attempt has its device for itself",
    "to_be_halved": "memory was out once more; the next attempt trains each batch in two halves, a deviation",
    "released": "attempt {attempt} was stopped on request; it waits to go on from its checkpoint",
    "started_afresh": "attempt {attempt} begins from scratch: no whole checkpoint was left",
    "checkpoint_damaged": "the checkpoint {path} is damaged and was put aside",
    "checkpoint_adopted": "the checkpoint {path} had been written before a kill, and is used",
    "ancestor_restored": "the weights of candidate {ancestor} were gone or damaged; it was trained again",
    "room_made": "{files} checkpoints were removed to make room, {bytes} bytes",
    "restored": "the record was restored from a backup",
    "transferred": "the search was created from candidate {candidate} of {source}, {chosen}",
    "survivors_taken": "{taken} of {source} come along unchanged; left out: {over_limits} over the limits, "
    "{same_network} that build the network of another; perturbations of the best fill up",
    "retried": "its failures are forgiven; it waits for another try",
    "replay_differs": "attempt {attempt}: epoch {epoch} came out otherwise when it was repeated",
    "extended": "the budget is {candidates} candidates now",
    "finished": "the search finished: {why}",
    "quality_flat": "quality has not risen by more than {by} since step {since}; the search ends after {births} births",
    "space_exhausted": "no architecture is left to propose: {message}",
    "created": "the search was created",
    "paused": "the search was paused",
}
_OF_CANDIDATE: Final = {
    "cancelled": "it was cancelled",
    "resumed": "attempt {attempt} goes on from epoch {epoch}, batch {batch}",
}
_OF_SEARCH: Final = {"cancelled": "the search was cancelled", "resumed": "the search goes on"}
_BORN: Final = {
    "random": "born as a random sample",
    "mutation": "born as a mutation of candidate {parent_id}",
    "basic": "born as the basic architecture, candidate {parent_id}",
    "survivor": "born as candidate {parent_id}, unchanged",
    "perturbation": "born as a perturbation of candidate {parent_id}",
    "yardstick": "candidate {parent_id} is to be trained again from scratch",
    "final": "candidate {parent_id} is to be trained from scratch on training and validation images, then tested",
}


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One thing that happened; `words` tells it."""

    id: int
    at: float
    kind: str
    search: str | None
    candidate_id: int | None
    birth: int | None
    attempt: int | None
    words: str
    detail: dict[str, Any] | None


def list_events(
    connection: Connection,
    search_id: int | None = None,
    limit: int = 50,
    after: int = 0,
    candidate_id: int | None = None,
    kind: str | None = None,
    until: int | None = None,
    offset: int = 0,
) -> tuple[RecordedEvent, ...]:
    """The last `limit` events with an id over `after`, of one search, candidate or kind or of all; the newest last.

    `until`: none with an id over it. Who goes on from the last one reads up to `database.Horizon`.
    `offset`: without so many of the newest.
    """
    query = (
        select(
            event,
            search.c.name.label("search"),
            *(candidate.c[name] for name in ("birth", "origin", "parent_id", "fitness")),
        )
        .outerjoin(search, search.c.id == event.c.search_id)
        .outerjoin(candidate, candidate.c.id == event.c.candidate_id)
        .where(event.c.id > after)
        .order_by(event.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if search_id is not None:
        query = query.where(event.c.search_id == search_id)
    if candidate_id is not None:
        query = query.where(event.c.candidate_id == candidate_id)
    if kind is not None:
        query = query.where(event.c.kind == kind)
    if until is not None:
        query = query.where(event.c.id <= until)
    return tuple(_event(row) for row in reversed(connection.execute(query).all()))


def _event(row: Any) -> RecordedEvent:
    detail = None if row.detail is None else json.loads(row.detail)
    return RecordedEvent(
        row.id,
        row.at,
        row.kind,
        row.search,
        row.candidate_id,
        row.birth,
        row.attempt,
        _in_words(row, detail or {}),
        detail,
    )


def _in_words(row: Any, detail: dict[str, Any]) -> str:
    """The event as a sentence. What a later version wrote and we do not know is told as it stands."""
    facts = {**row._mapping, **detail}
    if "failure" in detail:
        facts["failure"] = ", ".join(filter(None, (detail["failure"].replace("_", " "), detail.get("message"))))
    if row.fitness is not None:
        facts["fitness"] = f"{row.fitness:.4f}"
    if row.kind == "born":
        words = _BORN.get(row.origin, f"born as {row.origin}")
    else:
        words = {**_WORDS, **(_OF_SEARCH if row.candidate_id is None else _OF_CANDIDATE)}.get(row.kind, "")
    try:
        told = words.format_map(facts) or _as_it_stands(row.kind, detail)
    except KeyError:
        told = _as_it_stands(row.kind, detail)
    return " ".join(told.split())


def _as_it_stands(kind: str, detail: dict[str, Any]) -> str:
    told = ", ".join(f"{name} {value}" for name, value in detail.items())
    return f"{kind.replace('_', ' ')}: {told}".removesuffix(": ")
