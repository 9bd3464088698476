import pytest

from eatnas_db.domain.failure_policy import decide_after_failure
from eatnas_db.domain.states import FailureKind, MemoryFallback


def decide(kind, *, progressed=False, own_failures=0, lost_attempts=0, fallback=MemoryFallback.NONE, **options):
    return decide_after_failure(
        kind,
        progressed=progressed,
        own_failures=own_failures,
        lost_attempts=lost_attempts,
        memory_fallback=fallback,
        **options,
    )


def test_third_own_failure_is_final():
    decisions = [decide(FailureKind.EXCEPTION, own_failures=count) for count in range(3)]
    assert [decision.gives_up for decision in decisions] == [False, False, True]
    assert [decision.backoff_seconds for decision in decisions] == [0.0, 10.0, 0.0]


def test_failure_after_progress_does_not_count():
    decision = decide(FailureKind.HANG, progressed=True, own_failures=2, lost_attempts=5)
    assert (decision.gives_up, decision.own_failures, decision.lost_attempts) == (False, 2, 0)


@pytest.mark.parametrize("kind", [FailureKind.LOST, FailureKind.PARENT_MISSING])
def test_twentieth_lost_attempt_in_a_row_is_final(kind):
    assert not decide(kind, lost_attempts=18).gives_up
    assert decide(kind, lost_attempts=19).gives_up
    assert decide(kind, lost_attempts=19, progressed=True).lost_attempts == 0
    by_another = decide(kind, lost_attempts=19, by_another=True)
    assert (by_another.gives_up, by_another.lost_attempts) == (False, 19)


@pytest.mark.parametrize("kind", [FailureKind.DIVERGED, FailureKind.TIME_LIMIT, FailureKind.UNREADABLE_DATA])
def test_failures_that_would_repeat_are_final(kind):
    assert decide(kind, progressed=True).gives_up


@pytest.mark.parametrize("fallback", MemoryFallback)
def test_next_attempt_is_alone_if_it_must_be(fallback):
    decision = decide(FailureKind.LOST, fallback=fallback, next_alone=True)
    assert (decision.gives_up, decision.memory_fallback) == (False, max(fallback, MemoryFallback.ALONE))


def test_memory_fallbacks_are_used_up_one_by_one():
    decisions = [decide(FailureKind.OUT_OF_MEMORY, fallback=fallback) for fallback in MemoryFallback]
    assert [decision.gives_up for decision in decisions] == [False, False, True]
    assert [decision.memory_fallback for decision in decisions] == [1, 2, 2]
    assert [decision.own_failures for decision in decisions] == [0, 0, 0]
