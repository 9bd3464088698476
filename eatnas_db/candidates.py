"""Insert many candidates and their architectures with a few statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select, update

from eatnas_db.database.batches import split_in_batches
from eatnas_db.database.bulk_insert import insert_or_ignore_rows, insert_rows
from eatnas_db.domain.architecture import Block
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.space import Proposal
from eatnas_db.domain.states import CandidateState
from eatnas_db.errors import CollisionError
from eatnas_db.events import record_events
from eatnas_db.schema.candidates import architecture, block, candidate, mutation, prediction
from eatnas_db.schema.searches import search

MAX_BIRTHS: Final = 1000
"""The maximum number of births that one statement inserts; databases limit the parameters of a statement."""

_BIRTH_AND_ID: Final = (candidate.c.birth, candidate.c.id)
_COUNT_BIRTHS: Final = (
    update(search)
    .where(search.c.id == bindparam("search_id"), search.c.born == bindparam("first"))
    .values(born=search.c.born + bindparam("births"))
)
_DIGEST_AND_ID: Final = (architecture.c.digest, architecture.c.id)
_SELECT_ARCHITECTURES: Final = select(architecture.c.digest, architecture.c.id).where(
    architecture.c.digest.in_(bindparam("digests", expanding=True))
)


def insert_candidates(connection: Connection, search_id: int, births: Sequence[Birth], now: float) -> None:
    """Insert consecutive births as pending candidates.

    Raises `CollisionError` if another host has inserted one of these births.
    """
    for batch in split_in_batches(births, MAX_BIRTHS):
        _insert_batch(connection, search_id, batch, now)


def _insert_batch(connection: Connection, search_id: int, births: Sequence[Birth], now: float) -> None:
    architectures = store_architectures(connection, [birth.proposal for birth in births])
    rows = [_candidate_row(search_id, birth, architectures[birth.proposal.digest], now) for birth in births]
    inserted = insert_or_ignore_rows(connection, candidate, rows, _BIRTH_AND_ID)
    ids: dict[int, int] = {row.birth: row.id for row in inserted}
    if len(ids) < len(births):
        raise CollisionError(
            f"birth {births[0].number} or a later one already exists; try again, and if the error repeats, run "
            "`eatnas-db db check`"
        )
    mutations = [row for birth in births for row in _mutation_rows(ids[birth.number], birth.proposal)]
    insert_rows(connection, mutation, mutations)
    predictions = [
        {"candidate_id": ids[birth.number], **asdict(birth.prediction)} for birth in births if birth.prediction
    ]
    insert_rows(connection, prediction, predictions)
    counted = {"search_id": search_id, "first": births[0].number, "births": len(births)}
    connection.execute(_COUNT_BIRTHS, counted)
    record_events(connection, now, "born", search_id=search_id, candidate_ids=[ids[birth.number] for birth in births])


def _candidate_row(search_id: int, birth: Birth, architecture_id: int, now: float) -> dict[str, Any]:
    proposal = birth.proposal
    return {
        "search_id": search_id,
        "birth": birth.number,
        "architecture_id": architecture_id,
        "code": str(proposal.architecture),
        "origin": birth.origin,
        "parent_id": birth.parent_id,
        "replica": birth.replica,
        "state": CandidateState.PENDING,
        "params": proposal.cost.params,
        "mult_adds": proposal.cost.mult_adds,
        "activations": proposal.activations,
        "created_at": now,
    }


def _mutation_rows(candidate_id: int, proposal: Proposal) -> list[dict[str, Any]]:
    return [
        {
            "candidate_id": candidate_id,
            "ordinal": ordinal,
            "block": change.block,
            "primitive": change.primitive,
            "before": str(change.before),
            "after": str(change.after),
        }
        for ordinal, change in enumerate(proposal.changes)
    ]


def store_architectures(connection: Connection, proposals: Sequence[Proposal]) -> dict[str, int]:
    """Insert the architectures that are not stored yet, with their blocks.

    Return the ids of all architectures by digest.
    """
    # All hosts insert in this order, so that two hosts with the same architectures cannot deadlock.
    by_digest = {proposal.digest: proposal for proposal in sorted(proposals, key=lambda proposal: proposal.digest)}
    rows = [{"digest": digest, "genotype": str(proposal.effective)} for digest, proposal in by_digest.items()]
    inserted = insert_or_ignore_rows(connection, architecture, rows, _DIGEST_AND_ID)
    ids: dict[str, int] = {row.digest: row.id for row in inserted}
    blocks = [row for digest, id_ in ids.items() for row in _block_rows(id_, by_digest[digest])]
    insert_rows(connection, block, blocks)
    if stored := [digest for digest in by_digest if digest not in ids]:
        ids |= {row.digest: row.id for row in connection.execute(_SELECT_ARCHITECTURES, {"digests": stored})}
    return ids


def _block_rows(architecture_id: int, proposal: Proposal) -> list[dict[str, Any]]:
    return [
        {
            "architecture_id": architecture_id,
            "position": position,
            "op": genes.op,
            "kernel": genes.kernel,
            "skip": genes.skip,
            "depth": genes.depth,
            "width": genes.width,
        }
        for position, genes in enumerate(proposal.effective, 1)
        if isinstance(genes, Block)
    ]
