"""Query a trained model: a scored candidate with its checkpoint and its description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select

from eatnas_db.domain.states import CandidateState, Origin, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.queries.candidates import CandidateScore, get_candidate
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.ranking import get_best, rank_among
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, checkpoint, provenance, score


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A candidate of a model's lineage; `changes` describes its mutations."""

    search: str
    birth: int
    origin: str
    fitness: float | None
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A scored candidate and its weights.

    `is_final` is true if the model was also trained on the validation images. `architecture_digest` is the digest of
    the effective genotype. `data` is the section `data` of the spec. `data_digest` covers the training and the
    validation images. `recipe` is the recipe behind the score, with the precision. `checkpoint` is a path relative to
    the home's artifacts, `checkpoint_digest` the SHA-256 of the content, and `host` the machine that wrote the
    checkpoint.
    """

    candidate_id: int
    search: str
    is_final: bool
    code: str
    architecture_digest: str
    params: int
    mult_adds: int
    macro: dict[str, Any]
    task: dict[str, Any]
    data: dict[str, Any]
    data_digest: str
    recipe: dict[str, Any]
    seed: int
    metrics: dict[str, float]
    versions: dict[str, str]
    device: str
    lineage: tuple[Ancestor, ...]
    checkpoint: str
    checkpoint_digest: str
    host: str


def get_trained_model(connection: Connection, candidate_id: int) -> TrainedModel:
    """Return the model of a candidate.

    Raises `NotFoundError` if there is no such candidate, and `ConflictError` if the candidate is not scored or its
    weights were not kept.
    """
    details = get_candidate(connection, candidate_id)
    record = get_search(connection, details.search)
    _require_scored(details.id, details.state, details.search)
    saved = connection.execute(_newest_checkpoint(candidate_id)).first()
    if saved is None:
        raise ConflictError(_weights_missing(connection, details.id, details.parent_id, record))
    newest = _newest_scores(details.scores)
    conditions = connection.execute(_conditions(candidate_id, newest[0])).one()
    if program := conditions.recipe.get("program"):
        raise ConflictError(
            f"candidate {candidate_id} was trained by {program['reference']}, and only that program can read its "
            f"checkpoint, {saved.path} in the artifacts folder of host {saved.host}"
        )
    return TrainedModel(
        candidate_id=details.id,
        search=details.search,
        is_final=details.origin == Origin.FINAL,
        code=details.code,
        architecture_digest=details.digest,
        params=details.params,
        mult_adds=details.mult_adds,
        macro=record.macro,
        task=record.task,
        data=record.spec["data"],
        data_digest=record.data_digest,
        recipe=conditions.recipe,
        seed=newest[0].seed,
        metrics={one.metric: one.value for one in newest},
        versions=conditions.versions,
        device=conditions.device,
        lineage=tuple(
            Ancestor(one.search, one.birth, one.origin, one.fitness, one.changes)
            for one in reversed(get_lineage(connection, candidate_id))
        ),
        checkpoint=saved.path,
        checkpoint_digest=saved.digest,
        host=saved.host,
    )


def find_best_model(connection: Connection, name: str) -> int:
    """Return the id of a search's best model: its best final model or, if it has no final models, its best candidate.

    The ranking decides which candidate is the best; the test accuracy has no influence. If a candidate has several
    final models, return the model with the first seed of the newest recipe. Raises `NotFoundError`, and `ConflictError`
    if no candidate is scored.
    """
    record = get_search(connection, name)
    final = _find_best_final(connection, record)
    if final is not None:
        return final
    best = get_best(connection, record.id)
    if best is None:
        raise ConflictError(f"search {name!r} has no scored candidate yet; run it first")
    return best.id


def _find_best_final(connection: Connection, record: SearchRecord) -> int | None:
    """Return a final model of the best candidate that has final models: the model with the first seed of the newest
    recipe.
    """
    if record.kind == SearchKind.FINAL:
        of_record = [search.c.id == record.id]
    else:
        of_record = [search.c.source_id == record.id, search.c.kind == SearchKind.FINAL]
    query = (
        select(candidate.c.parent_id, candidate.c.id)
        .join(search, search.c.id == candidate.c.search_id)
        .where(*of_record, candidate.c.origin == Origin.FINAL, candidate.c.state == CandidateState.SCORED)
    )
    tested = query.subquery()
    ranked = rank_among(connection, select(tested.c.parent_id))
    if not ranked:
        return None
    models = query.where(candidate.c.parent_id == ranked[0].id).order_by(search.c.id.desc(), candidate.c.replica)
    return int(connection.execute(models.limit(1)).one().id)


def _require_scored(candidate_id: int, state: str, search_name: str) -> None:
    if state == CandidateState.SCORED:
        return
    remedy = {
        CandidateState.PENDING: f"`eatnas-db run {search_name}` trains it",
        CandidateState.LEASED: "wait until it is scored",
        CandidateState.WAITING: f"`eatnas-db run {search_name}` decides whether it continues",
        CandidateState.FAILED: f"`eatnas-db candidate retry {candidate_id}` trains it again",
        CandidateState.CANCELLED: f"`eatnas-db query best {search_name}` lists the scored candidates",
    }[CandidateState(state)]
    words = "in training" if state == CandidateState.LEASED else state
    raise ConflictError(f"candidate {candidate_id} has no trained model: it is {words}; {remedy}")


def _newest_scores(scores: tuple[CandidateScore, ...]) -> list[CandidateScore]:
    last = max(one.attempt for one in scores)
    return [one for one in scores if one.attempt == last]


def _conditions(candidate_id: int, measured: CandidateScore) -> Select[Any]:
    return (
        select(provenance.c.recipe, provenance.c.versions, provenance.c.device)
        .join(score, score.c.provenance_id == provenance.c.id)
        .where(score.c.candidate_id == candidate_id, score.c.metric == measured.metric, score.c.seed == measured.seed)
    )


def _newest_checkpoint(candidate_id: int) -> Select[Any]:
    return (
        select(checkpoint.c.path, checkpoint.c.digest, host.c.name.label("host"))
        .join(
            attempt,
            (attempt.c.candidate_id == checkpoint.c.candidate_id) & (attempt.c.number == checkpoint.c.attempt),
        )
        .join(worker, worker.c.id == attempt.c.worker_id)
        .join(device, device.c.id == worker.c.device_id)
        .join(host, host.c.id == device.c.host_id)
        .where(checkpoint.c.candidate_id == candidate_id)
        .order_by(checkpoint.c.epoch.desc(), checkpoint.c.batch.desc(), checkpoint.c.attempt.desc())
        .limit(1)
    )


def _weights_missing(connection: Connection, candidate_id: int, parent_id: int | None, record: SearchRecord) -> str:
    """Return the error message for a scored candidate without a checkpoint, with the command that trains the candidate
    again.
    """
    if record.kind == SearchKind.IMPORTED:
        return f"candidate {candidate_id} has no weights: its score was imported, and nothing was trained"
    name, trained, again = record.name, candidate_id, ""
    if record.kind != SearchKind.EVOLUTION and parent_id is not None and record.source_id is not None:
        name = connection.execute(select(search.c.name).where(search.c.id == record.source_id)).scalar_one()
        trained, again = parent_id, " --again" if record.kind == SearchKind.FINAL else ""
    return (
        f"the weights of candidate {candidate_id} were deleted: a search keeps only the weights of its population and "
        f"of its best candidates, and a limit on disk space may delete more; "
        f"`eatnas-db search final {name} --candidate {trained}{again}` trains a final model and keeps its weights"
    )
