"""Decide what follows a failed attempt: the failure of the candidate, or another attempt, perhaps later or with less
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.states import FailureKind, MemoryFallback

MAX_OWN_FAILURES: Final = 3
MAX_LOST_ATTEMPTS: Final = 20
BACKOFF_SECONDS: Final = 10.0
"""The seconds that a candidate waits after the second failure that it caused.

This time doubles after each later failure.
"""
MAX_BACKOFF_SECONDS: Final = BACKOFF_SECONDS * 2 ** (MAX_OWN_FAILURES - 2)

NOT_RETRIED: Final = frozenset(
    {
        FailureKind.DIVERGED,
        FailureKind.TIME_LIMIT,
        FailureKind.UNREADABLE_DATA,
        FailureKind.INVALID_REPORT,
        FailureKind.MISSING_PLUGIN,
    }
)
"""The kinds of failure that another attempt would only repeat."""
NOT_ITS_OWN: Final = frozenset({FailureKind.LOST, FailureKind.PARENT_MISSING})
"""The kinds of failure that the candidate did not cause."""


@dataclass(frozen=True, slots=True)
class FailureDecision:
    """Whether a candidate fails for good, and its counters and memory fallback after the failure."""

    gives_up: bool
    own_failures: int
    lost_attempts: int
    memory_fallback: MemoryFallback
    backoff_seconds: float
    """The seconds until the next attempt may start."""


def decide_after_failure(
    kind: FailureKind,
    *,
    progressed: bool,
    own_failures: int,
    lost_attempts: int,
    memory_fallback: MemoryFallback,
    next_alone: bool = False,
    by_another: bool = False,
) -> FailureDecision:
    """Decide how a candidate continues after a failed attempt. `own_failures`, `lost_attempts` and `memory_fallback`
    are the candidate's values before the failure.

    An attempt counts against the candidate only if the candidate caused the failure and `progressed` is false: the
    attempt recorded neither an epoch nor a checkpoint. Kills and reboots do not count, but the candidate fails after 20
    in a row without progress. A candidate that runs out of memory is tried with the next memory fallback, and fails
    after the last one. With `next_alone`, another training on the device may have caused the failure, so the next
    attempt has the device to itself. A kill that another candidate caused (`by_another`) never counts, because the
    failures of that candidate limit the number of such kills.
    """
    out_of_memory = kind == FailureKind.OUT_OF_MEMORY
    last_fallback = memory_fallback == MemoryFallback.HALVED
    if kind in NOT_ITS_OWN:
        lost_attempts = 0 if progressed else lost_attempts + (not by_another)
    else:
        lost_attempts = 0
        own_failures += 0 if progressed or out_of_memory else 1
    gives_up = (
        kind in NOT_RETRIED
        or (out_of_memory and last_fallback)
        or own_failures >= MAX_OWN_FAILURES
        or lost_attempts >= MAX_LOST_ATTEMPTS
    )
    if out_of_memory and not last_fallback:
        memory_fallback = MemoryFallback(memory_fallback + 1)
    if next_alone:
        memory_fallback = max(memory_fallback, MemoryFallback.ALONE)
    backoff_seconds = BACKOFF_SECONDS * 2 ** (own_failures - 2) if own_failures >= 2 and not gives_up else 0.0
    return FailureDecision(
        gives_up=gives_up,
        own_failures=own_failures,
        lost_attempts=lost_attempts,
        memory_fallback=memory_fallback,
        backoff_seconds=backoff_seconds,
    )
