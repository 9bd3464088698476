"""What a worker is given for a leased candidate: its assignment, and that of whom it inherits from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection

from eatnas_db.checkpoint_files import checkpoint_folder
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.memory_estimate import expected_bytes
from eatnas_db.domain.recipe import inherits_weights, recipe_of
from eatnas_db.domain.rng import derive_seed
from eatnas_db.domain.states import FailureKind, MemoryFallback, Origin
from eatnas_db.leases import LeasedCandidate
from eatnas_db.queries.inheritance import InheritanceLink, list_inheritance_chain
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.settings import Settings
from eatnas_protocol.messages import Assign


@dataclass(frozen=True, slots=True)
class Assignment:
    """A candidate in a worker's hands."""

    leased: LeasedCandidate
    assign: Assign
    objective: dict[str, Any]
    lineage_epochs: int
    """That will be behind its score: its own and those that it inherits."""
    seconds_left: float | None
    """Of a device, before the candidate's time limit; None without one."""
    expected_bytes: int = 0
    """Of a GPU's memory, beyond a context."""

    @property
    def needs_device_alone(self) -> bool:
        """Return whether an attempt ran out of memory next to others."""
        return self.leased.memory_fallback != MemoryFallback.NONE


def work_for(connection: Connection, settings: Settings, row: SearchRecord, leased: LeasedCandidate) -> Assignment:
    """What to do about a leased candidate of the search `row`."""
    heritage = _heritage(connection, row, leased)
    assign = replace(
        _assign(settings, leased.token.candidate, row.id, leased.code, leased.replica, row, bool(heritage)),
        attempt=leased.token.attempt,
        split_batches=leased.memory_fallback == MemoryFallback.HALVED,
        ancestors=[asdict(_ancestor(settings, link)) for link in heritage],
    )
    if leased.origin == Origin.FINAL:
        assign = replace(assign, final_model=True, seed=derive_seed(row.seed, "final", leased.replica))
    inherited = heritage[-1].lineage_epochs if heritage else 0
    limit = row.spec["budget"]["candidate_seconds"]
    left = None if limit is None else limit - leased.spent_seconds
    batch = assign.training["batch_size"] // (2 if assign.split_batches else 1)
    expected = expected_bytes(leased.params, leased.mult_adds, batch, row.memory_share)
    return Assignment(leased, assign, row.spec["objective"], assign.training["epochs"] + inherited, left, expected)


def _heritage(connection: Connection, row: SearchRecord, leased: LeasedCandidate) -> tuple[InheritanceLink, ...]:
    if leased.parent_id is None or not inherits_weights(row.spec, origin=leased.origin, parent_id=leased.parent_id):
        return ()
    whole = leased.last_failure == FailureKind.PARENT_MISSING
    return list_inheritance_chain(connection, leased.parent_id, whole=whole)


def _ancestor(settings: Settings, link: InheritanceLink) -> Assign:
    made = _assign(settings, link.candidate_id, link.search_id, link.code, link.replica, link, link.inherited)
    return replace(made, split_batches=link.halved)


def _assign(
    settings: Settings,
    candidate_id: int,
    search_id: int,
    code: str,
    replica: int,
    row: SearchRecord | InheritanceLink,
    inheriting: bool,
) -> Assign:
    data = dict(row.spec["data"])
    data["root"] = data["root"] or str(settings.data)
    return Assign(
        candidate=candidate_id,
        attempt=0,
        code=Architecture.parse(code).to_code(),
        macro=row.macro,
        task=row.task,
        data=data,
        training=recipe_of(row.spec, inheriting=inheriting),
        seed=derive_seed(row.seed, "training", *([replica] if replica else [])),
        checkpoint_folder=str(settings.artifacts / checkpoint_folder(search_id)),
        log_file=str(settings.logs / f"candidate-{candidate_id}.log"),
        inherits=inheriting,
    )
