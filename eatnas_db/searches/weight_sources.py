"""Find the trained final models from whose weights new final models start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from eatnas_db.domain.final_weights import WeightSource
from eatnas_db.domain.states import CandidateState, SearchKind
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.spaces import read_space


def find_weight_sources(
    connection: Connection, record: SearchRecord, reference: tuple[str, int | None], codes: Sequence[tuple[int, str]]
) -> dict[str, dict[str, Any]]:
    """Return the source of the weights for each architecture of `record`, given by candidate and code.

    The first part of `reference` names a search of final models, or a search that has final models. The second part is
    the id of one final model or of its original candidate, or None. If several final models have the same architecture,
    the first one is the source. Raises `NotFoundError` or `ConflictError`.
    """
    source = get_search(connection, reference[0])
    models = _list_models(connection, source, reference[1])
    _require_same_space(record, source)
    sources: dict[str, dict[str, Any]] = {}
    for candidate_id, code in codes:
        of_candidate = select(candidate.c.architecture_id).where(candidate.c.id == candidate_id)
        architecture_id = connection.execute(of_candidate).scalar_one()
        same = [model for model in models if model.architecture_id == architecture_id]
        if not same:
            raise ConflictError(
                f"final.from: no final model of {describe_reference(reference)} has the architecture of candidate "
                f"{candidate_id}, {code}; choose another candidate with --candidate, or another source"
            )
        sources[code] = _first_usable(connection, same, reference).to_json()
    return sources


def describe_reference(reference: tuple[str, int | None]) -> str:
    """Return the reference in the user's notation, SEARCH or SEARCH/CANDIDATE."""
    name, candidate_id = reference
    return repr(name if candidate_id is None else f"{name}/{candidate_id}")


def _list_models(connection: Connection, source: SearchRecord, candidate_id: int | None) -> list[Row[Any]]:
    query = (
        select(
            candidate.c.id, candidate.c.architecture_id, candidate.c.state, search.c.name, search.c.spec, search.c.macro
        )
        .join(search, search.c.id == candidate.c.search_id)
        .where(search.c.kind == SearchKind.FINAL, or_(search.c.id == source.id, search.c.source_id == source.id))
        .order_by(candidate.c.id)
    )
    if candidate_id is not None:
        query = query.where(or_(candidate.c.id == candidate_id, candidate.c.parent_id == candidate_id))
    models: list[Row[Any]] = list(connection.execute(query))
    if not models and candidate_id is not None:
        raise NotFoundError(
            f"final.from: candidate {candidate_id} is not a final model of search {source.name!r}, and none "
            f"was trained for it; `eatnas-db query best {source.name}` lists the candidates of this search"
        )
    if not models:
        raise NotFoundError(
            f"final.from: search {source.name!r} has no final models; "
            f"`eatnas-db search final {source.name}` trains some"
        )
    return models


def _require_same_space(record: SearchRecord, source: SearchRecord) -> None:
    """Raise `ConflictError` unless both searches build their networks in the same way."""
    own, other = (_without_versions(row.macro) for row in (record, source))
    if own != other:
        same_name = own.get("name") == other.get("name")
        detail = "with other values" if same_name else f"and not {own.get('name')}"
        raise ConflictError(
            f"final.from: search {source.name!r} has the space {other.get('name')} {detail}, so its weights do not fit "
            f"the networks of {record.name!r}; use a source with the same space"
        )
    if read_space(record.macro).inheritance is None:
        raise ConflictError(
            f"final.from: the space {own.get('name')} has no way to copy weights between its networks; remove the key"
        )


def _without_versions(macro: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in macro.items() if key != "plugins"}


def _first_usable(
    connection: Connection, models: Sequence[Row[Any]], reference: tuple[str, int | None]
) -> WeightSource:
    """Return the weights of the first final model that is trained and has its last checkpoint."""
    trained = [model for model in models if model.state == CandidateState.SCORED]
    for model in trained:
        last = select(checkpoint.c.digest).where(
            checkpoint.c.candidate_id == model.id,
            checkpoint.c.epoch == model.spec["training"]["epochs"],
            checkpoint.c.batch == 0,
        )
        digest = connection.execute(last.order_by(checkpoint.c.attempt.desc())).scalars().first()
        if digest is not None:
            return WeightSource(model.name, model.id, digest)
    if not trained:
        states = ", ".join(sorted({str(model.state) for model in models}))
        raise ConflictError(
            f"final.from: the final model {models[0].id} of {describe_reference(reference)} is not trained ({states}); "
            f"run `eatnas-db run {models[0].name}` first"
        )
    raise ConflictError(
        f"final.from: the last checkpoint of the final model {trained[0].id} of {describe_reference(reference)} was "
        "deleted; train it again with `eatnas-db search final --again`"
    )
