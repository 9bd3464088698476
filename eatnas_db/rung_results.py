"""Store and read the results of candidates at rungs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, update

from eatnas_db.leases import LeaseToken
from eatnas_db.schema.trainings import rung


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung: its number (counted from 0), its epochs, and whether it is the last rung."""

    number: int
    epochs: int
    is_last: bool


class WaitingRung(NamedTuple):
    """A candidate's result at a rung, where the candidate waits for the decision whether it continues."""

    candidate_id: int
    attempt: int
    number: int
    epochs: int
    fitness: float
    metrics: Mapping[str, float]
    seed: int
    provenance_id: int

    @property
    def token(self) -> LeaseToken:
        """The token of the attempt that reached the rung."""
        return LeaseToken(self.candidate_id, self.attempt)


_INSERT: Final = insert(rung)
_DECIDE: Final = (
    update(rung)
    .where(rung.c.candidate_id == bindparam("candidate"), rung.c.number == bindparam("rung_number"))
    .values(promoted=bindparam("is_promoted"))
)
_SELECT_REACHED: Final = select(func.count(), func.max(rung.c.attempt)).where(
    rung.c.candidate_id == bindparam("candidate")
)


def insert_rung(
    connection: Connection,
    token: LeaseToken,
    reached: Rung,
    *,
    fitness: float,
    metrics: Mapping[str, float],
    seed: int,
    provenance_id: int,
    now: float,
) -> None:
    """Insert the result of a candidate at a rung.

    The decision whether the candidate continues is left open, except after the last rung.
    """
    row = {
        "candidate_id": token.candidate,
        "number": reached.number,
        "epochs": reached.epochs,
        "attempt": token.attempt,
        "fitness": fitness,
        "metrics": dict(metrics),
        "seed": seed,
        "provenance_id": provenance_id,
        "promoted": False if reached.is_last else None,
        "ended_at": now,
    }
    connection.execute(_INSERT, row)


def record_decision(connection: Connection, waiting: WaitingRung, *, promoted: bool) -> None:
    """Store whether a candidate continues."""
    values = {"candidate": waiting.candidate_id, "rung_number": waiting.number, "is_promoted": promoted}
    connection.execute(_DECIDE, values)


class ReachedRungs(NamedTuple):
    """The number of rungs that a candidate has reached, and the last attempt that reached a rung (0 without a rung)."""

    rungs: int
    last_attempt: int


def get_reached_rungs(connection: Connection, candidate_id: int) -> ReachedRungs:
    """Return the number of rungs that a candidate has reached, and the last attempt that reached a rung."""
    count, attempt = connection.execute(_SELECT_REACHED, {"candidate": candidate_id}).one()
    return ReachedRungs(count, attempt or 0)
