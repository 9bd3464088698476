"""The states of candidates and searches, and the table of transitions from which the SQL guards are generated."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class CandidateState(StrEnum):
    """The state of a candidate."""

    PENDING = "pending"
    LEASED = "leased"
    WAITING = "waiting"
    """Trained up to a rung, and waiting for the decision whether it continues."""
    SCORED = "scored"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Transition(StrEnum):
    """A change of a candidate's state, made by `eatnas_db.transitions`.

    Its value is the kind of the recorded event.
    """

    LEASE = "leased"
    SCORE = "scored"
    FAIL = "failed"
    RELEASE = "released"
    RECLAIM = "taken_back"
    CANCEL = "cancelled"
    REACH_RUNG = "rung_reached"
    PROMOTE = "promoted"
    STOP = "stopped"
    IMPORT = "imported"


ALLOWED_TRANSITIONS: Final[dict[Transition, tuple[frozenset[CandidateState], CandidateState]]] = {
    Transition.LEASE: (frozenset({CandidateState.PENDING}), CandidateState.LEASED),
    Transition.SCORE: (frozenset({CandidateState.LEASED}), CandidateState.SCORED),
    Transition.FAIL: (frozenset({CandidateState.LEASED}), CandidateState.FAILED),
    Transition.RELEASE: (frozenset({CandidateState.LEASED}), CandidateState.PENDING),
    Transition.RECLAIM: (frozenset({CandidateState.LEASED}), CandidateState.PENDING),
    Transition.CANCEL: (
        frozenset({CandidateState.PENDING, CandidateState.LEASED, CandidateState.WAITING}),
        CandidateState.CANCELLED,
    ),
    Transition.REACH_RUNG: (frozenset({CandidateState.LEASED}), CandidateState.WAITING),
    Transition.PROMOTE: (frozenset({CandidateState.WAITING}), CandidateState.PENDING),
    Transition.STOP: (frozenset({CandidateState.WAITING}), CandidateState.SCORED),
    Transition.IMPORT: (frozenset({CandidateState.PENDING}), CandidateState.SCORED),
}
"""The states that each transition starts from, and the state that it ends in. No transition leaves a settled state."""

UNSETTLED: Final = frozenset({CandidateState.PENDING, CandidateState.LEASED, CandidateState.WAITING})
"""The states of candidates that are in training or may still be trained."""
SETTLED: Final = frozenset({CandidateState.SCORED, CandidateState.FAILED, CandidateState.CANCELLED})
"""The states in which a candidate no longer delays later births."""


class Origin(StrEnum):
    """How the architecture of a candidate was chosen."""

    RANDOM = "random"
    MUTATION = "mutation"
    PERTURBATION = "perturbation"
    BASIC = "basic"
    SURVIVOR = "survivor"
    """A candidate of the source search, carried over unchanged."""
    IMPORTED = "imported"
    """An architecture that the user gave as `transfer.basic`, or with its score to `db import`."""
    REEVALUATION = "reevaluation"
    """A candidate of another search, trained again from scratch with a different seed."""
    FINAL = "final"
    """A candidate of another search, trained from scratch on training and validation images, and tested."""
    RETRY = "retry"
    """A failed candidate of another search, trained again from scratch with a different seed."""


RETRAINED: Final = (Origin.REEVALUATION, Origin.FINAL, Origin.RETRY)
"""Origins of candidates that train another candidate again: they never inherit weights and have no children."""


class SearchKind(StrEnum):
    """The purpose of a search."""

    EVOLUTION = "evolution"
    REEVALUATION = "reevaluation"
    """Trains the best candidates of another search from scratch with fresh seeds, and has no other births."""
    FINAL = "final"
    """Trains the winners of another search with a longer recipe on training and validation images.

    It evaluates each final model once on the test part, and has no other births.
    """
    RETRY = "retry"
    """Trains failed candidates of another search from scratch, outside its population, and has no other births."""
    IMPORTED = "imported"
    """Has scores that were measured elsewhere, and trains nothing; other searches may start from it."""


class DesiredState(StrEnum):
    """The state that the user wants for a search."""

    RUN = "run"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class MemoryFallback(IntEnum):
    """How a candidate is trained after it ran out of memory. If the last fallback also runs out of memory, the
    candidate fails.
    """

    NONE = 0
    ALONE = 1
    """Trained while no other training runs on its device."""
    HALVED = 2
    """Trained alone, with each batch in two halves.

    This changes the statistics of batch norm, so results report a deviation.
    """


class FailureKind(StrEnum):
    """The reason why an attempt ended without a score."""

    EXCEPTION = "exception"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    SIGNAL = "signal"
    HANG = "hang"
    TIME_LIMIT = "time_limit"
    UNREADABLE_DATA = "unreadable_data"
    INVALID_REPORT = "invalid_report"
    """The user's own training function broke a rule for its reports; for example, it left out an epoch."""
    MISSING_PLUGIN = "missing_plugin"
    """A plug-in of the search is not installed, has changed or cannot be loaded; the host sets the search aside."""
    PARENT_MISSING = "parent_missing"
    """The weights to inherit are missing or damaged: the next attempt trains the parent again."""
    LOST = "lost"
    """The worker was killed, or its machine rebooted or disconnected: this failure never counts against the candidate.
    """


class HoldCause(StrEnum):
    """The reason why a host has set a search aside."""

    ERROR = "error"
    """Deciding or storing the next step of the search failed; the host leaves the whole search alone."""
    DATA = "data"
    """The host cannot read the search's images, and trains no candidate of the search."""
    PLUGIN = "plugin"
    """The host lacks a plug-in of the search, or has another version of it, and trains no candidate of the search."""
