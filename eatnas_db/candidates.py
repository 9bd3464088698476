"""Insert candidates and their architectures."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.space import Proposal
from eatnas_db.domain.states import CandidateState
from eatnas_db.events import record_event
from eatnas_db.schema.candidates import architecture, block, candidate, mutation
from eatnas_db.schema.searches import search

_INSERT_CANDIDATE: Final = insert_or_ignore(candidate).returning(candidate.c.id)
_INSERT_MUTATION: Final = insert(mutation)
_COUNT_BIRTH: Final = (
    update(search)
    .where(search.c.id == bindparam("search_id"), search.c.born == bindparam("birth"))
    .values(born=search.c.born + 1)
)
_INSERT_ARCHITECTURE: Final = insert_or_ignore(architecture).returning(architecture.c.id)
_SELECT_ARCHITECTURE: Final = select(architecture.c.id).where(architecture.c.digest == bindparam("digest"))
_INSERT_BLOCK: Final = insert(block)


def insert_candidate(
    connection: Connection, search_id: int, birth: Birth, now: float, *, replica: int = 0
) -> int | None:
    """Insert a decided birth as a pending candidate and return its id; None if another host inserted it first."""
    proposal = birth.proposal
    values = {
        "search_id": search_id,
        "birth": birth.number,
        "architecture_id": store_architecture(connection, proposal),
        "code": str(proposal.architecture),
        "origin": birth.origin,
        "parent_id": birth.parent_id,
        "replica": replica,
        "state": CandidateState.PENDING,
        "params": proposal.cost.params,
        "mult_adds": proposal.cost.mult_adds,
        "activations": proposal.activations,
        "created_at": now,
    }
    candidate_id = connection.execute(_INSERT_CANDIDATE, values).scalar()
    if candidate_id is None:
        return None
    if proposal.changes:
        changes = [
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
        connection.execute(_INSERT_MUTATION, changes)
    connection.execute(_COUNT_BIRTH, {"search_id": search_id, "birth": birth.number})
    record_event(connection, now, "born", search_id=search_id, candidate_id=candidate_id)
    return int(candidate_id)


def store_architecture(connection: Connection, proposal: Proposal) -> int:
    """Insert an architecture and its blocks unless it is stored already, and return its id."""
    values = {"digest": proposal.digest, "genotype": str(proposal.effective)}
    architecture_id = connection.execute(_INSERT_ARCHITECTURE, values).scalar()
    if architecture_id is None:
        return int(connection.execute(_SELECT_ARCHITECTURE, {"digest": proposal.digest}).scalar_one())
    rows = [
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
    ]
    connection.execute(_INSERT_BLOCK, rows)
    return int(architecture_id)
