"""Train candidates of a search again: re-evaluations and final models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from sqlalchemy import Connection, insert, select

from eatnas_db import events
from eatnas_db.candidates import insert_candidate
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import (
    Birth,
)
from eatnas_db.domain.recipe import FINAL_EPOCHS_FACTOR, without_timing
from eatnas_db.domain.states import CandidateState, DesiredState, Origin, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.queries.final_models import list_final_models
from eatnas_db.queries.ranking import get_best, list_best, list_fittest
from eatnas_db.queries.searches import SearchRecord, get_open_yardstick, get_search
from eatnas_db.schema.searches import search
from eatnas_db.searches.basic_architecture import choose_basic
from eatnas_db.searches.search_space import space_of


def create_reevaluation(
    connection: Connection, name: str, *, top: int, seeds: int, epochs: int | None = None, now: float
) -> str:
    """Insert a search that trains the best `top` of another from scratch, each with fresh `seeds`; its name.

    Raises `NotFoundError`, `ConflictError`.
    """
    row = get_search(connection, name)
    if row.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: rescore that one")
    best = list_fittest(connection, row.id, top)
    if not best:
        raise ConflictError(
            f"search {name!r} has no scored candidate yet: there is nothing to measure again; run it first"
        )
    return insert_yardstick(connection, row, [(one.id, one.code) for one in best], seeds, epochs, now)


def create_final_training(
    connection: Connection,
    name: str,
    *,
    candidate_ids: Sequence[int] = (),
    top: int = 1,
    seeds: int = 3,
    epochs: int | None = None,
    again: bool = False,
    now: float,
) -> str:
    """Insert a search that trains final models, and tests each once: the candidates given, or else the `top` winners.

    From scratch with fresh `seeds`, on training and validation images together. `again`: what was tested by this
    recipe before may be tested with more seeds. Its name. Raises `NotFoundError`, `ConflictError`.
    """
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    row = get_search(connection, name)
    if row.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: final models are of that one")
    chosen = [choose_basic(connection, row, one)[:2] for one in dict.fromkeys(candidate_ids)]
    if not chosen:
        _require_winners(connection, row)
        chosen = [(one.id, one.code) for one in list_best(connection, row.id, top)]
    training = {**row.spec["training"], "epochs": epochs or FINAL_EPOCHS_FACTOR * row.spec["training"]["epochs"]}
    births = []
    for parent, code in chosen:
        same = [one for one in list_final_models(connection, [parent]) if one.recipe == without_timing(training)]
        looks = [one for one in same if one.state not in (CandidateState.FAILED, CandidateState.CANCELLED)]
        if looks and not again:
            raise ConflictError(
                f"candidate {parent} is tested by this recipe already, in {looks[0].search!r}: each further look makes "
                "the test set less of a test; --again takes one all the same, with fresh seeds"
            )
        used = max((one.replica for one in same), default=0)
        births += [(parent, code, replica) for replica in range(used + 1, used + seeds + 1)]
    return _insert_trainings(connection, row, SearchKind.FINAL, Origin.FINAL, births, training, now)


def insert_yardstick(
    connection: Connection,
    row: SearchRecord,
    best: Sequence[tuple[int, str]],
    seeds: int,
    epochs: int | None,
    now: float,
) -> str:
    """Each of the best, once for each seed."""
    training = {**row.spec["training"], "epochs": epochs or row.spec["training"]["epochs"]}
    births = [(parent, code, replica) for parent, code in best for replica in range(1, seeds + 1)]
    return _insert_trainings(connection, row, SearchKind.YARDSTICK, Origin.YARDSTICK, births, training, now)


def _insert_trainings(
    connection: Connection,
    row: SearchRecord,
    kind: SearchKind,
    origin: Origin,
    births: Sequence[tuple[int, str, int]],
    training: dict[str, Any],
    now: float,
) -> str:
    """A search of given births, each a candidate of the search `row`, its code and which of its seeds; its name."""
    taken = set(connection.execute(select(search.c.name).where(search.c.source_id == row.id)).scalars())
    names = (f"{row.name[:48]}.{kind}{'' if number == 1 else number}" for number in count(1))
    name = next(name for name in names if name not in taken)
    trainings = len(births)
    budget = {**row.spec["budget"], "candidates": trainings, "device_hours": None}
    if kind == SearchKind.FINAL:  # the limit was for the search's recipe
        budget["candidate_seconds"] = None
    spec = {
        **row.spec,
        "name": name,
        "training": training,
        "budget": budget,
        "inheritance": {**row.spec["inheritance"], "weights": "fresh"},
        "yardstick": {**row.spec["yardstick"], "top": 0},
    }
    values = {
        **{key: getattr(row, key) for key in ("seed", "macro", "task", "data_digest")},
        "name": name,
        "kind": kind,
        "source_id": row.id,
        # Before anything else: somebody waits for what it will say of the best.
        "priority": row.priority + 1,
        "spec": spec,
        "population": trainings,
        "lag": trainings,
        "budget_candidates": trainings,
        "wish": DesiredState.RUN,
        "created_at": now,
    }
    search_id = int(connection.execute(insert(search).values(values).returning(search.c.id)).scalar_one())
    events.record_event(connection, now, "created", search_id, detail={"source": row.name})
    space = space_of(row)
    for number, (parent, code, replica) in enumerate(births):
        proposal = space.propose(Architecture.parse(code))
        insert_candidate(connection, search_id, Birth(number, origin, proposal, parent), now, replica=replica)
    return name


def _require_winners(connection: Connection, row: SearchRecord) -> None:
    """Raise `ConflictError` while it may still change which candidates of a search are the winners."""
    if row.finished_at is None:
        raise ConflictError(f"search {row.name!r} is not finished ({row.status}); --candidate ID tests one of it now")
    if (measuring := get_open_yardstick(connection, row.id)) is not None:
        raise ConflictError(
            f"{measuring.name!r}, which says what is best in {row.name!r}, is not finished; run it first, or name one "
            "with --candidate"
        )
    if get_best(connection, row.id) is None:
        raise ConflictError(f"search {row.name!r} has no scored candidate: there is nothing to test; run it first")
