"""Train candidates of a search again: re-evaluations, final models and retries of failed candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from eatnas_db.candidates import insert_candidates
from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.final_recipe import AUGMENTED_CHANNELS, final_recipe
from eatnas_db.domain.final_weights import FROM, RANDOM, list_weight_sources, own_training, parse_source
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.states import CandidateState, DesiredState, Origin, SearchKind
from eatnas_db.errors import ConflictError, InvalidSpecError
from eatnas_db.events import record_event
from eatnas_db.queries.final_models import list_final_models
from eatnas_db.queries.ranking import get_best, list_best, list_to_reevaluate
from eatnas_db.queries.searches import SearchRecord, get_open_reevaluation, get_search, measure_device_seconds
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import MAXIMUM_NAME_LENGTH, search
from eatnas_db.searches.basic_architecture import choose_basic_candidate
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.search_space import space_of
from eatnas_db.searches.weight_sources import find_weight_sources


@dataclass(frozen=True, slots=True)
class Retraining:
    """A training of a candidate from scratch; `replica` numbers its seeds from 1."""

    candidate_id: int
    code: str
    replica: int


def create_reevaluation(
    connection: Connection, name: str, *, top: int, seeds: int, epochs: int | None = None, now: float
) -> str:
    """Insert a search that trains the `top` best candidates of search `name` from scratch, with `seeds` seeds each.

    Return the name of the new search. Raises `NotFoundError` or `ConflictError`.
    """
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    record = get_search(connection, name)
    require_evolution(record, "reevaluated")
    best = list_to_reevaluate(connection, record.id, top)
    if not best:
        raise ConflictError(f"search {name!r} has no scored candidate to measure again; run it first")
    codes = [(ranked.id, ranked.code) for ranked in best]
    return insert_reevaluation(connection, record, codes, seeds=seeds, epochs=epochs, now=now)


def create_final_training(
    connection: Connection,
    name: str,
    *,
    candidate_ids: Sequence[int] = (),
    top: int = 1,
    seeds: int = 3,
    epochs: int | None = None,
    final: Mapping[str, Any] | None = None,
    again: bool = False,
    now: float,
) -> str:
    """Insert a search that trains final models of search `name` and tests each of them once.

    Train final models of `candidate_ids`, or else of the `top` best candidates. Each model is trained from scratch with
    `seeds` fresh seeds on training and validation images together. The keys of `final`, and `epochs`, take precedence
    over the section `final` of the search's spec. `again` permits candidates that have a tested final model of the same
    recipe. Return the name of the new search. Raises `NotFoundError`, `ConflictError` or `InvalidSpecError`.
    """
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    record = get_search(connection, name)
    require_evolution(record, "trained as final models")
    if record.spec["training"].get("program"):
        raise ConflictError(
            f"search {record.name!r} cannot be trained as final models: its training.program has no test part; "
            "`eatnas-db search reevaluate` trains its best candidates again"
        )
    choices = [
        choose_basic_candidate(connection, record, candidate_id) for candidate_id in dict.fromkeys(candidate_ids)
    ]
    codes = [(choice.candidate_id, choice.code) for choice in choices]
    if not codes:
        _require_winners(connection, record)
        codes = [(ranked.id, ranked.code) for ranked in list_best(connection, record.id, top)]
    keys = {**record.spec.get("final", {}), **(final or {}), **({"epochs": epochs} if epochs else {})}
    training = _final_training(record, keys)
    reference = parse_source(keys.get(FROM) or RANDOM)
    if reference is not None:
        training[FROM] = find_weight_sources(connection, record, reference, codes)
    retrainings = [
        Retraining(candidate_id, code, replica)
        for candidate_id, code in codes
        for replica in _unused_replicas(
            connection, candidate_id, own_training(training, code), seeds=seeds, again=again
        )
    ]
    return insert_retrainings(
        connection,
        record,
        retrainings,
        kind=SearchKind.FINAL,
        training=training,
        now=now,
    )


def _final_training(record: SearchRecord, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of final models with the keys of a section `final`, without the weights to start from.

    Raises `InvalidSpecError`.
    """
    training = final_recipe(record.spec["training"], keys)
    if "auto_augment" in training and record.task["channels"] not in AUGMENTED_CHANNELS:
        raise InvalidSpecError(
            f"`final.auto_augment: {training['auto_augment']}` needs images of 1 or 3 channels, but the images of "
            f"{record.name!r} have {record.task['channels']}; use `none`"
        )
    return training


def _unused_replicas(
    connection: Connection, candidate_id: int, training: dict[str, Any], *, seeds: int, again: bool
) -> range:
    """Return unused replica numbers for further final models of a candidate with the recipe of `training`.

    Raises `ConflictError` if a final model of this recipe was tested before, unless `again` is true.
    """
    models = list_final_models(connection, [candidate_id])
    same_recipe = [model for model in models if model.recipe == without_timing(training)]
    untested = (CandidateState.FAILED, CandidateState.CANCELLED)
    tested = [model for model in same_recipe if model.state not in untested]
    if tested and not again:
        raise ConflictError(
            f"candidate {candidate_id} is already tested with this recipe in {tested[0].search!r}, and every further "
            "evaluation makes the test part less independent; use --again to test it with fresh seeds"
        )
    used = max((model.replica for model in same_recipe), default=0)
    return range(used + 1, used + seeds + 1)


def insert_reevaluation(
    connection: Connection,
    source: SearchRecord,
    codes: Sequence[tuple[int, str]],
    *,
    seeds: int,
    epochs: int | None,
    now: float,
) -> str:
    """Insert a search that trains candidates of `source`, given by id and code, once per seed.

    Return the name of the new search.

    The seeds differ from the seeds of all earlier re-evaluations of a candidate.
    """
    training = {**source.spec["training"], "epochs": epochs or source.spec["training"]["epochs"]}
    used = largest_replicas(connection, [candidate_id for candidate_id, _ in codes], Origin.REEVALUATION)
    retrainings = [
        Retraining(candidate_id, code, used.get(candidate_id, 0) + number)
        for candidate_id, code in codes
        for number in range(1, seeds + 1)
    ]
    return insert_retrainings(
        connection,
        source,
        retrainings,
        kind=SearchKind.REEVALUATION,
        training=training,
        now=now,
    )


def largest_replicas(connection: Connection, candidate_ids: Sequence[int], origin: Origin) -> dict[int, int]:
    """Return, for each candidate with trainings of this origin, the largest replica number of these trainings."""
    query = select(candidate.c.parent_id, func.max(candidate.c.replica)).where(
        candidate.c.parent_id.in_(candidate_ids), candidate.c.origin == origin
    )
    return {row[0]: row[1] for row in connection.execute(query.group_by(candidate.c.parent_id))}


def insert_retrainings(
    connection: Connection,
    source: SearchRecord,
    retrainings: Sequence[Retraining],
    *,
    kind: SearchKind,
    training: dict[str, Any],
    now: float,
) -> str:
    """Insert a search with all its births, which are known in advance. Return the name of the search."""
    budget = {**source.spec["budget"], "candidates": len(retrainings), "device_hours": None}
    if kind == SearchKind.FINAL:  # the time limit is meant for the recipe of the search
        budget["candidate_seconds"] = None
    spec = {
        **source.spec,
        "training": training,
        "budget": budget,
        "inheritance": {**source.spec["inheritance"], "weights": "fresh"},
        "reevaluation": {**source.spec["reevaluation"], "top": 0},
    }
    values = {
        "kind": kind,
        "source_id": source.id,
        "source_seconds": measure_device_seconds(connection, source.id),
        "seed": source.seed,
        "macro": source.macro,
        "task": source.task,
        "data_digest": source.data_digest,
        "data_state": source.data_state,
        # Train this search before other searches, because a user waits for the result.
        "priority": source.priority + 1,
        "population": len(retrainings),
        "initial_births": len(retrainings),
        "lag": len(retrainings),
        "budget_candidates": len(retrainings),
        "wish": DesiredState.RUN,
        "created_at": now,
    }
    search_id, name = _insert_with_unused_name(connection, values, spec, prefix=source.name, suffix=kind)
    detail: dict[str, Any] = {"source": source.name}
    if sources := list_weight_sources(training):
        detail["weights"] = list(dict.fromkeys(map(str, sources)))
    record_event(connection, now, "created", search_id=search_id, detail=detail)
    _insert_births(connection, lock_search(connection, search_id), retrainings, now)
    return name


def append_retrainings(
    connection: Connection, record: SearchRecord, retrainings: Sequence[Retraining], now: float
) -> None:
    """Add births to a search of retrainings. A finished search then continues."""
    total = record.born + len(retrainings)
    connection.execute(
        update(search)
        .where(search.c.id == record.id)
        .values(
            population=total, initial_births=total, lag=total, budget_candidates=total, finished_at=None, failed=False
        )
    )
    detail = {"candidates": total, "birth": record.born, "step": record.settled}
    record_event(connection, now, "extended", search_id=record.id, detail=detail)
    _insert_births(connection, record, retrainings, now)


_ORIGINS: Final = {
    SearchKind.REEVALUATION: Origin.REEVALUATION,
    SearchKind.FINAL: Origin.FINAL,
    SearchKind.RETRY: Origin.RETRY,
}
"""The origin of the candidates for each kind of search that trains candidates again."""


def _insert_births(connection: Connection, record: SearchRecord, retrainings: Sequence[Retraining], now: float) -> None:
    space, origin = space_of(record), _ORIGINS[SearchKind(record.kind)]
    births = [
        Birth(
            number,
            origin,
            space.propose(space.parse(retraining.code)),
            parent_id=retraining.candidate_id,
            replica=retraining.replica,
        )
        for number, retraining in enumerate(retrainings, record.born)
    ]
    insert_candidates(connection, record.id, births, now)


def _insert_with_unused_name(
    connection: Connection, values: dict[str, Any], spec: dict[str, Any], *, prefix: str, suffix: str
) -> tuple[int, str]:
    """Insert a search named PREFIX.SUFFIX, followed by a number if this name is taken. Return its id and name.

    The insert itself detects a taken name, so no other program can take the name between a check and the insert.
    """
    statement = insert_or_ignore(search).returning(search.c.id)
    for number in count(1):
        ending = f".{suffix}{'' if number == 1 else number}"
        name = prefix[: MAXIMUM_NAME_LENGTH - len(ending)] + ending
        row = {**values, "name": name, "spec": {**spec, "name": name}}
        search_id = connection.execute(statement, row).scalar()
        if search_id is not None:
            return int(search_id), name
    raise AssertionError("unreachable: there are more names than searches")


def require_evolution(record: SearchRecord, participle: str) -> None:
    """Raise `ConflictError` unless the search decides its own births and trains them."""
    if record.kind == SearchKind.IMPORTED:
        raise ConflictError(
            f"search {record.name!r} cannot be {participle}: its scores were imported, and it has no images and no "
            f"recipe; start a search from it with `eatnas-db transfer {record.name} SPEC.yaml`"
        )
    if record.kind != SearchKind.EVOLUTION:
        raise ConflictError(
            f"search {record.name!r} cannot be {participle}: it measures candidates of another search; "
            "use that search instead"
        )


def _require_winners(connection: Connection, record: SearchRecord) -> None:
    """Raise `ConflictError` while the winners of a search may still change."""
    if record.finished_at is None:
        raise ConflictError(
            f"search {record.name!r} is not finished ({record.status}); "
            "wait for it, or choose a candidate with --candidate ID"
        )
    if (reevaluation := get_open_reevaluation(connection, record.id)) is not None:
        raise ConflictError(
            f"{reevaluation.name!r}, which decides the ranking of {record.name!r}, is not finished; "
            "run it first, or choose a candidate with --candidate ID"
        )
    if get_best(connection, record.id) is None:
        raise ConflictError(f"search {record.name!r} has no scored candidate to test; run it first")
