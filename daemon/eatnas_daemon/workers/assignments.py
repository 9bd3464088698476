"""Create assignments: all data that a worker needs to train a leased candidate, including its ancestors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection

from eatnas_db.checkpoint_files import checkpoint_folder
from eatnas_db.domain.final_weights import FROM, WeightSource, source_of
from eatnas_db.domain.memory_estimate import expected_bytes
from eatnas_db.domain.objective import VALIDATION_ACCURACY, Objective
from eatnas_db.domain.objectives import OptimizedMetric, latency_settings
from eatnas_db.domain.recipe import inherits_weights, recipe_of
from eatnas_db.domain.rng import derive_seed
from eatnas_db.domain.rungs import Rungs, rungs_of
from eatnas_db.domain.states import FailureKind, MemoryFallback, Origin
from eatnas_db.leases import LeasedCandidate
from eatnas_db.queries.inheritance import InheritanceLink, list_inheritance_chain
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.rung_results import Rung, get_reached_rungs
from eatnas_db.settings import Settings
from eatnas_db.spaces import read_space
from eatnas_protocol.messages import Assign, InitialWeights


@dataclass(frozen=True, slots=True)
class Assignment:
    """A leased candidate and the message that assigns it to a worker."""

    leased: LeasedCandidate
    message: Assign
    objective: Objective
    objectives: tuple[OptimizedMetric, ...]
    """The objectives of a search with several objectives; empty for a search with one objective."""
    lineage_epochs: int
    """The epochs behind the candidate's score: its own, and the epochs of ancestors whose weights it inherits."""
    remaining_device_seconds: float | None
    """The seconds in steps that remain until the candidate's time limit; None without a limit."""
    precision: str = "float32"
    """The precision in which the device trains."""
    expected_bytes: int = 0
    """The expected GPU memory in bytes, without the CUDA context."""
    rung: Rung | None = None
    """The rung to which the candidate is trained; None if its search has no rungs."""

    @property
    def needs_device_alone(self) -> bool:
        """Return whether an earlier attempt ran out of memory while it shared its device with other trainings."""
        return self.leased.memory_fallback != MemoryFallback.NONE


def create_assignment(
    connection: Connection,
    settings: Settings,
    search: SearchRecord,
    leased: LeasedCandidate,
    precision: str = "float32",
) -> Assignment:
    """Return the assignment of a candidate that was leased in this transaction, for a device of this precision."""
    ancestors = _ancestors(connection, search, leased)
    message = _candidate_message(settings, search, leased, ancestors)
    lineage_epochs = ancestors[-1].lineage_epochs if ancestors else 0
    if (source := source_of(search.spec["training"], leased.code)) is not None:
        weights, lineage_epochs = _initial_weights(connection, settings, source)
        training = {**message.training, FROM: source.to_json()}
        message = replace(message, training=training, initial_weights=asdict(weights))
    if "plugins" in search.macro:
        message = replace(message, recorded_cost={"params": leased.params, "mult_adds": leased.mult_adds})
    rung = None
    if (rungs := rungs_of(search.spec, leased.origin)) is not None:
        rung, message = _train_to_next_rung(connection, rungs, leased, message)
    epochs = message.training["epochs"] if rung is None else rung.epochs
    limit = search.spec["budget"]["candidate_seconds"]
    return Assignment(
        leased=leased,
        message=message,
        objective=search.objective,
        objectives=search.objectives,
        lineage_epochs=epochs + lineage_epochs,
        remaining_device_seconds=None if limit is None else limit - leased.spent_seconds,
        precision=precision,
        expected_bytes=_expected_bytes(search, leased, message, precision),
        rung=rung,
    )


def _expected_bytes(search: SearchRecord, leased: LeasedCandidate, message: Assign, precision: str) -> int:
    """Return the expected GPU memory of a training in bytes, at its largest resolution."""
    enlarged = message.training.get("end_resolution")
    scale = (enlarged / search.task["resolution"]) ** 2 if enlarged else 1.0
    activations = round(leased.activations * max(1.0, scale))
    return expected_bytes(leased.params, activations, images_per_pass(message), search.memory_share, precision)


def _initial_weights(connection: Connection, settings: Settings, source: WeightSource) -> tuple[InitialWeights, int]:
    """Return the final model from whose weights a training starts, and the epochs behind these weights.

    If the search of that model was deleted, the model's network is unknown, and the training fails with a message.
    """
    chain = list_inheritance_chain(connection, source.candidate, whole=False)
    if not chain:
        return InitialWeights(str(source), source.candidate, "", source.digest, [], {}, {}), 0
    model = chain[0]
    space = read_space(model.macro)
    weights = InitialWeights(
        label=str(source),
        candidate=source.candidate,
        checkpoint_folder=str(settings.artifacts / checkpoint_folder(model.search_id)),
        digest=source.digest,
        code=space.to_code(space.parse(model.code)),
        macro=model.macro,
        task=model.task,
    )
    return weights, model.lineage_epochs


def _train_to_next_rung(
    connection: Connection, rungs: Rungs, leased: LeasedCandidate, message: Assign
) -> tuple[Rung, Assign]:
    """Return the next rung of a candidate, and a copy of the message with which the training ends at this rung."""
    reached = get_reached_rungs(connection, leased.token.candidate)
    rung = Rung(reached.rungs, rungs.epochs[reached.rungs], is_last=reached.rungs == rungs.last)
    if rungs.resumes:
        return rung, message if rung.is_last else replace(message, stop_after=rung.epochs)
    begins_after = max(message.begins_after, reached.last_attempt)
    return rung, replace(message, training={**message.training, "epochs": rung.epochs}, begins_after=begins_after)


def images_per_pass(message: Assign) -> int:
    """Return the number of images that a training processes in one pass: a whole batch, or half a batch."""
    return int(message.training["batch_size"]) // (2 if message.split_batches else 1)


def _ancestors(connection: Connection, search: SearchRecord, leased: LeasedCandidate) -> tuple[InheritanceLink, ...]:
    """Return the candidate's parent. If the parent's weights are missing, also return the ancestors that must be
    trained again.
    """
    if leased.parent_id is None:
        return ()
    if not inherits_weights(search.spec, origin=leased.origin, parent_id=leased.parent_id):
        return ()
    whole = leased.last_failure == FailureKind.PARENT_MISSING
    return list_inheritance_chain(connection, leased.parent_id, whole=whole)


def _candidate_message(
    settings: Settings, search: SearchRecord, leased: LeasedCandidate, ancestors: Sequence[InheritanceLink]
) -> Assign:
    final = leased.origin == Origin.FINAL
    latency = None if final else latency_settings(search.objectives)
    return _assign_message(
        settings,
        search,
        candidate_id=leased.token.candidate,
        attempt=leased.token.attempt,
        search_id=search.id,
        code=leased.code,
        seed=_seed(search, leased.replica, final=final),
        inherits=bool(ancestors),
        split_batches=leased.memory_fallback == MemoryFallback.HALVED,
        begins_after=leased.begins_after,
        ancestors=[asdict(_ancestor_message(settings, ancestor)) for ancestor in ancestors],
        final_model=final,
        data_state=search.data_state,
        latency=None if latency is None else asdict(latency),
        objective_metric=search.objective.metric,
    )


def _ancestor_message(settings: Settings, ancestor: InheritanceLink) -> Assign:
    return _assign_message(
        settings,
        ancestor,
        candidate_id=ancestor.candidate_id,
        attempt=0,
        search_id=ancestor.search_id,
        code=ancestor.code,
        seed=_seed(ancestor, ancestor.replica),
        inherits=ancestor.inherited,
        split_batches=ancestor.halved,
        data_state=ancestor.data_state,
        stop_after=ancestor.stop_after,
    )


def _seed(source: SearchRecord | InheritanceLink, replica: int, *, final: bool = False) -> int:
    if final:
        return derive_seed(source.seed, "final", replica)
    return derive_seed(source.seed, "training", *([replica] if replica else []))


def _assign_message(
    settings: Settings,
    source: SearchRecord | InheritanceLink,
    *,
    candidate_id: int,
    attempt: int,
    search_id: int,
    code: str,
    seed: int,
    inherits: bool,
    split_batches: bool,
    begins_after: int = 0,
    ancestors: list[dict[str, Any]] | None = None,
    final_model: bool = False,
    data_state: dict[str, Any] | None = None,
    latency: dict[str, Any] | None = None,
    objective_metric: str = VALIDATION_ACCURACY,
    stop_after: int | None = None,
) -> Assign:
    """Return the message to a worker; `source` has the spec, macro and task of the candidate's search."""
    data = settings.locate_data(source.spec["data"])
    space = read_space(source.macro)
    return Assign(
        candidate=candidate_id,
        attempt=attempt,
        code=space.to_code(space.parse(code)),
        macro=source.macro,
        task=source.task,
        data=data,
        training=recipe_of(source.spec, inheriting=inherits),
        seed=seed,
        checkpoint_folder=str(settings.artifacts / checkpoint_folder(search_id)),
        log_file=str(settings.logs / f"candidate-{candidate_id}.log"),
        inherits=inherits,
        split_batches=split_batches,
        begins_after=begins_after,
        ancestors=ancestors or [],
        final_model=final_model,
        data_state=data_state,
        latency=latency,
        objective_metric=objective_metric,
        stop_after=stop_after,
    )
