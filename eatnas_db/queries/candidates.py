"""Query all recorded details of one candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, select

from eatnas_db.domain.final_weights import describe_source
from eatnas_db.queries.candidate_ids import require_candidate
from eatnas_db.queries.mutations import list_mutations
from eatnas_db.queries.predictions import PredictedFitness, get_predicted_fitness
from eatnas_db.queries.rungs import CandidateRung, list_candidate_rungs
from eatnas_db.schema.candidates import architecture, block, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, epoch, provenance, score


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """A block of a candidate's effective genotype; `position` counts from 1."""

    position: int
    op: str
    kernel: int
    skip: bool
    depth: int
    width: float


@dataclass(frozen=True, slots=True)
class CandidateAttempt:
    """An attempt at training a candidate; `number` counts from 1 and times are Unix times in seconds."""

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
    """An epoch of a candidate's training; `number` counts from 0.

    `memory_bytes` is the device memory of the worker at the end of the epoch. `load` is the share of the GPU, or of one
    processor core, that is in use. `metrics` are the further metrics of a user's own training function.
    """

    number: int
    attempt: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float | None
    seconds: float
    ended_at: float
    memory_bytes: int | None
    load: float | None
    metrics: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """The value of a metric for a seed, with the device and the software versions of the measurement."""

    metric: str
    seed: int
    value: float
    attempt: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class CandidateDetails:
    """A candidate with its blocks, attempts, epochs and scores.

    `changes` describes its mutations, as in `block 5 kernel 3 → 7`. `digest` belongs to the effective genotype.
    `prediction` is None unless the model decided the birth. `rungs` is empty in a search without rungs. `weights_from`
    is the final model (as SEARCH/CANDIDATE) whose weights this final model starts from, or None for random weights.
    """

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
    prediction: PredictedFitness | None
    blocks: tuple[CandidateBlock, ...]
    attempts: tuple[CandidateAttempt, ...]
    epochs: tuple[CandidateEpoch, ...]
    scores: tuple[CandidateScore, ...]
    rungs: tuple[CandidateRung, ...] = ()
    weights_from: str | None = None


def get_candidate(connection: Connection, candidate_id: int) -> CandidateDetails:
    """Return the candidate with this id. Raises `NotFoundError`."""
    require_candidate(connection, candidate_id)
    parent = candidate.alias("parent")
    query = (
        select(
            candidate,
            search.c.name.label("search"),
            search.c.spec,
            architecture.c.digest,
            parent.c.birth.label("parent_birth"),
        )
        .join(search, search.c.id == candidate.c.search_id)
        .join(architecture, architecture.c.id == candidate.c.architecture_id)
        .outerjoin(parent, parent.c.id == candidate.c.parent_id)
        .where(candidate.c.id == candidate_id)
    )
    row = connection.execute(query).one()
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
        changes=list_mutations(connection, candidate_id),
        prediction=get_predicted_fitness(connection, candidate_id),
        blocks=_list_blocks(connection, row.architecture_id),
        attempts=_list_attempts(connection, candidate_id),
        epochs=list_epochs(connection, candidate_id),
        scores=_list_scores(connection, candidate_id),
        rungs=list_candidate_rungs(connection, candidate_id),
        weights_from=describe_source(row.spec, row.origin, row.code),
    )


def list_epochs(
    connection: Connection, candidate_id: int, *, first: int = 0, end: int | None = None
) -> tuple[CandidateEpoch, ...]:
    """Return the candidate's epochs with numbers from `first` up to but not including `end`, in order."""
    columns = (epoch.c[field.name] for field in fields(CandidateEpoch))
    query = select(*columns).where(epoch.c.candidate_id == candidate_id, epoch.c.number >= first)
    if end is not None:
        query = query.where(epoch.c.number < end)
    return tuple(CandidateEpoch(*row) for row in connection.execute(query.order_by(epoch.c.number)))


def list_genotypes(connection: Connection, candidate_ids: Sequence[int]) -> dict[int, str]:
    """Return a mapping from the ids of candidates to their effective genotypes."""
    query = (
        select(candidate.c.id, architecture.c.genotype)
        .join(architecture, architecture.c.id == candidate.c.architecture_id)
        .where(candidate.c.id.in_(candidate_ids))
    )
    return {row.id: row.genotype for row in connection.execute(query)}


def _list_blocks(connection: Connection, architecture_id: int) -> tuple[CandidateBlock, ...]:
    columns = (block.c[field.name] for field in fields(CandidateBlock))
    query = select(*columns).where(block.c.architecture_id == architecture_id).order_by(block.c.position)
    return tuple(CandidateBlock(*row) for row in connection.execute(query))


def _list_attempts(connection: Connection, candidate_id: int) -> tuple[CandidateAttempt, ...]:
    columns = (attempt.c[field.name] for field in fields(CandidateAttempt))
    query = select(*columns).where(attempt.c.candidate_id == candidate_id).order_by(attempt.c.number)
    return tuple(CandidateAttempt(*row) for row in connection.execute(query))


def _list_scores(connection: Connection, candidate_id: int) -> tuple[CandidateScore, ...]:
    query = (
        select(score.c.metric, score.c.seed, score.c.value, score.c.attempt, provenance.c.device, provenance.c.versions)
        .join(provenance, provenance.c.id == score.c.provenance_id)
        .where(score.c.candidate_id == candidate_id)
        .order_by(score.c.metric, score.c.seed)
    )
    return tuple(CandidateScore(*row) for row in connection.execute(query))
