"""The rules of rungs: short trainings after which only the best candidates continue.

A candidate stops for good at a rung, or continues to the next one. The decision for birth b depends on the results of
the births up to b - lag at the same rung, and never on the order in which trainings end.

Fitness never compares candidates of different rungs: the candidate on the higher rung is the better one. The quality of
a population covers only its members on the highest rung.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from eatnas_db.domain.states import RETRAINED

COMPARED_BIRTHS: Final = 100
"""The maximum number of earlier births that a candidate is compared with at a rung. This limit bounds the cost of a
decision.
"""


@dataclass(frozen=True, slots=True)
class Rungs:
    """The epochs of each rung; the last rung is the whole training.

    At most the share `keep` of the candidates at a rung continues. `resumes` is true if a candidate that continues
    resumes its checkpoint; otherwise each rung is a separate training.
    """

    epochs: tuple[int, ...]
    keep: float
    resumes: bool

    @property
    def last(self) -> int:
        """The number of the last rung, counted from 0."""
        return len(self.epochs) - 1

    @property
    def mean_epochs(self) -> float:
        """The mean number of epochs of a candidate if the share `keep` continues at each rung."""
        # A candidate that resumes its checkpoint trains only the epochs between two rungs.
        before = (0, *self.epochs) if self.resumes else (0,) * len(self.epochs)
        trained = (epochs - done for epochs, done in zip(self.epochs, before, strict=False))
        return sum(self.keep**number * epochs for number, epochs in enumerate(trained))

    @property
    def mean_trainings(self) -> float:
        """The mean number of trainings per candidate, one for each rung, if the share `keep` continues at each rung."""
        return sum(self.keep**number for number in range(len(self.epochs)))

    def next_epochs(self, done: int) -> int:
        """Return the epochs of the first rung with more epochs than `done`, or of the last rung if no rung has more."""
        return next((epochs for epochs in self.epochs if epochs > done), self.epochs[-1])


class RungResult(NamedTuple):
    """The fitness of a birth at a rung, and whether the birth continued."""

    fitness: float
    promoted: bool


class OnRung(Protocol):
    """An object with the number of a rung and a fitness."""

    @property
    def rung(self) -> int:
        """The last rung of the candidate; 0 in a search without rungs."""
        ...

    @property
    def fitness(self) -> float:
        """The fitness of the candidate at its last rung."""
        ...


_Member = TypeVar("_Member", bound=OnRung)


def rungs_of(spec: Mapping[str, Any], origin: str | None = None) -> Rungs | None:
    """Return the rungs of a stored spec, or None if the spec has none.

    A candidate of an origin in `RETRAINED` always gets the whole training.
    """
    fidelity = spec["evolution"].get("fidelity")
    if fidelity is None or origin in RETRAINED:
        return None
    whole = spec["training"]["epochs"]
    shorter = [epochs for epochs in fidelity["rungs"] if epochs < whole]
    return Rungs((*shorter, whole), fidelity["keep"], fidelity["schedule"] == "whole")


def is_promoted(fitness: float, earlier: Sequence[RungResult], keep: float) -> bool:
    """Return whether a candidate continues after a rung, given the results of earlier births at that rung.

    Of all results, including the candidate's own, at most the share `keep` (rounded down to a whole number) continues.
    The candidate continues if its result is among that many best results, and if fewer earlier candidates have
    continued. Ties go to the earlier birth.
    """
    allowed = math.floor(keep * (len(earlier) + 1))
    not_worse = sum(result.fitness >= fitness for result in earlier)
    promoted = sum(result.promoted for result in earlier)
    return not_worse < allowed and promoted < allowed


def on_highest_rung(members: Iterable[_Member]) -> list[_Member]:
    """Return the members on the highest rung that any member has reached. Fitness values are comparable only on the
    same rung.
    """
    listed = list(members)
    highest = max((member.rung for member in listed), default=0)
    return [member for member in listed if member.rung == highest]
