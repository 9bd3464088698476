"""One candidate, whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, select

from eatnas_db.errors import NotFoundError
from eatnas_db.queries.mutations import list_changes
from eatnas_db.schema.candidates import architecture, block, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, provenance, score

_LARGEST_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """One block of the effective genotype (from 1)."""

    position: int
    op: str
    kernel: int
    skip: bool
    depth: int
    width: float


@dataclass(frozen=True, slots=True)
class CandidateAttempt:
    """One try at training."""

    number: int
    started_at: float
    ended_at: float | None
    outcome: str | None
    failure: str | None
    message: str | None
    traceback: str | None
    device_seconds: float


@dataclass(frozen=True, slots=True)
class CandidateEpoch:
    """One epoch (from 0)."""

    number: int
    attempt: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    seconds: float
    ended_at: float
    memory_bytes: int | None
    load: float | None


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """A metric, its seed, and what it was measured on."""

    metric: str
    seed: int
    value: float
    attempt: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class CandidateDetails:
    """A candidate with everything that is known of it."""

    id: int
    search: str
    birth: int
    origin: str
    parent_id: int | None
    parent_birth: int | None
    state: str
    fitness: float | None
    share_inherited: float | None
    logit_distance: float | None
    lineage_epochs: int | None
    params: int
    mult_adds: int
    code: str
    digest: str
    joined: int | None
    left: int | None
    created_at: float
    ended_at: float | None
    changes: tuple[str, ...]
    blocks: tuple[CandidateBlock, ...]
    attempts: tuple[CandidateAttempt, ...]
    epochs: tuple[CandidateEpoch, ...]
    scores: tuple[CandidateScore, ...]


def require_candidate(connection: Connection, candidate_id: int) -> None:
    """Raise `NotFoundError` unless the record holds this candidate."""
    # A number that no integer column can hold would be the driver's error, not an answer.
    held = 0 < candidate_id <= _LARGEST_ID
    if not held or connection.execute(select(candidate.c.id).where(candidate.c.id == candidate_id)).first() is None:
        raise NotFoundError(
            f"no candidate {candidate_id}; `eatnas-db query best NAME` lists the ids of a search's best"
        )


def get_candidate(connection: Connection, candidate_id: int) -> CandidateDetails:
    """The candidate of this id. Raises `NotFoundError`."""
    require_candidate(connection, candidate_id)
    row = _row(connection, candidate_id)
    of = candidate_id
    return CandidateDetails(
        id=row.id,
        search=row.search,
        birth=row.birth,
        origin=row.origin,
        parent_id=row.parent_id,
        parent_birth=row.parent_birth,
        state=row.state,
        fitness=row.fitness,
        share_inherited=row.share_inherited,
        logit_distance=row.logit_distance,
        lineage_epochs=row.lineage_epochs,
        params=row.params,
        mult_adds=row.mult_adds,
        code=row.code,
        digest=row.digest,
        joined=row.joined,
        left=row.left,
        created_at=row.created_at,
        ended_at=row.ended_at,
        changes=list_changes(connection, of),
        blocks=_parts(connection, block, "architecture_id", row.architecture_id, "position", CandidateBlock),
        attempts=_parts(connection, attempt, "candidate_id", of, "number", CandidateAttempt),
        epochs=_parts(connection, epoch, "candidate_id", of, "number", CandidateEpoch),
        scores=_scores(connection, of),
    )


def _row(connection: Connection, candidate_id: int) -> Any:
    parent = candidate.alias("parent")
    query = (
        select(
            candidate,
            search.c.name.label("search"),
            architecture.c.digest,
            parent.c.birth.label("parent_birth"),
        )
        .join(search, search.c.id == candidate.c.search_id)
        .join(architecture, architecture.c.id == candidate.c.architecture_id)
        .outerjoin(parent, parent.c.id == candidate.c.parent_id)
        .where(candidate.c.id == candidate_id)
    )
    return connection.execute(query).one()


def _parts(connection: Connection, table: Table, key: str, value: int, order: str, kind: Any) -> tuple[Any, ...]:
    columns = [table.c[name] for name in kind.__dataclass_fields__]
    query = select(*columns).where(table.c[key] == value).order_by(table.c[order])
    return tuple(kind(*row) for row in connection.execute(query))


def _scores(connection: Connection, candidate_id: int) -> tuple[CandidateScore, ...]:
    query = (
        select(score.c.metric, score.c.seed, score.c.value, score.c.attempt, provenance.c.device, provenance.c.versions)
        .join(provenance, provenance.c.id == score.c.provenance_id)
        .where(score.c.candidate_id == candidate_id)
        .order_by(score.c.metric, score.c.seed)
    )
    return tuple(CandidateScore(*row) for row in connection.execute(query))
