"""The states of a candidate and the ways between them: data, from which the guards in SQL are made."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class CandidateState(StrEnum):
    """Where a candidate stands."""

    PENDING = "pending"
    LEASED = "leased"
    SCORED = "scored"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Transition(StrEnum):
    """The edges; each is one function of `eatnas_db.transitions`, and the kind of the event it leaves."""

    LEASE = "leased"
    SCORE = "scored"
    FAIL = "failed"
    RELEASE = "released"
    RECLAIM = "taken_back"
    CANCEL = "cancelled"
    RETRY = "retried"


EDGES: Final[dict[Transition, tuple[frozenset[CandidateState], CandidateState]]] = {
    Transition.LEASE: (frozenset({CandidateState.PENDING}), CandidateState.LEASED),
    Transition.SCORE: (frozenset({CandidateState.LEASED}), CandidateState.SCORED),
    Transition.FAIL: (frozenset({CandidateState.LEASED}), CandidateState.FAILED),
    Transition.RELEASE: (frozenset({CandidateState.LEASED}), CandidateState.PENDING),
    Transition.RECLAIM: (frozenset({CandidateState.LEASED}), CandidateState.PENDING),
    Transition.CANCEL: (frozenset({CandidateState.PENDING, CandidateState.LEASED}), CandidateState.CANCELLED),
    Transition.RETRY: (frozenset({CandidateState.FAILED}), CandidateState.PENDING),
}

UNSETTLED: Final = frozenset({CandidateState.PENDING, CandidateState.LEASED})
"""States in which a candidate is still to be trained."""
SETTLED: Final = frozenset({CandidateState.SCORED, CandidateState.FAILED, CandidateState.CANCELLED})
"""States in which a candidate holds up nobody: births after it may be decided."""


class Origin(StrEnum):
    """How a candidate came to be."""

    RANDOM = "random"
    MUTATION = "mutation"
    PERTURBATION = "perturbation"
    BASIC = "basic"
    SURVIVOR = "survivor"
    """One who lived at the end of the search that this one was transferred from, unchanged."""
    IMPORTED = "imported"
    YARDSTICK = "yardstick"
    """A candidate trained again from scratch, with another seed."""
    FINAL = "final"
    """A candidate trained from scratch on training and validation images, and tested."""


RETRAINED: Final = (Origin.YARDSTICK, Origin.FINAL)
"""Trained from scratch to measure another candidate: they inherit nothing, and nothing is bred from them."""


class SearchKind(StrEnum):
    """What a search is for."""

    EVOLUTION = "evolution"
    YARDSTICK = "yardstick"
    """The best of another search, each trained from scratch with fresh seeds; nothing is bred."""
    FINAL = "final"
    """The winners of another search, each trained by a longer recipe on training and validation images and looked at
    once on the test part; nothing is bred."""


class DesiredState(StrEnum):
    """What the user wants of a search."""

    RUN = "run"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class MemoryFallback(IntEnum):
    """How a candidate that ran out of memory is tried again. After the last there is no other try."""

    NONE = 0
    ALONE = 1
    """With no other training on its device."""
    HALVED = 2
    """Alone, and each batch in two halves: that changes batch-norm's statistics, and is a deviation to be told."""


class FailureKind(StrEnum):
    """Why an attempt ended without a score."""

    EXCEPTION = "exception"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    SIGNAL = "signal"
    HANG = "hang"
    TIME_LIMIT = "time_limit"
    UNREADABLE_DATA = "unreadable_data"
    PARENT_MISSING = "parent_missing"
    """The weights to inherit are gone or damaged: the next attempt makes them again from the record."""
    LOST = "lost"
    """Killed, rebooted or unplugged: not the candidate's own doing, and never counted against it."""
