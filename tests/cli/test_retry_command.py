"""`candidate retry` retries one failed candidate, or all candidates of a search that failed in the same way."""

import pytest
from sqlalchemy import update

from eatnas_db import transitions
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.create import create_search
from support.arithmetic_searches import tree

SIZES = {"evolution.population": 4, "evolution.tournament": 2, "evolution.lag": 4, "budget.candidates": 8}


@pytest.fixture
def flaky(engine, small):
    """Return a search with two candidates that diverged, one candidate that hung, and one candidate that is waiting."""
    with transaction(engine) as connection:
        spec = parse_spec(tree("flaky"), SIZES)
        search_id = create_search(connection, spec, task=Task(8, 1, 10), data_digest="d", slots=1, now=0.0)
        failed = []
        for _ in range(3):
            leased = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=1.0)
            transitions.record_failure(connection, leased.token, FailureKind.DIVERGED, "why", now=2.0)
            failed.append(leased.token.candidate)
        hung = attempt.c.candidate_id == failed[1]
        connection.execute(update(attempt).where(hung).values(failure=FailureKind.HANG))
    return failed


def test_one_command_retries_all_failed_candidates_of_a_search(flaky, eatnas_within):
    first, hung, _ = flaky
    retried = eatnas_within("candidate", "retry", "--search", "flaky", "--where", "failure=diverged")
    assert retried == (
        "search flaky.retry will train 2 failed candidates of search flaky with --where failure=diverged again\n"
    )
    assert "already retries it" in eatnas_within("candidate", "retry", str(first), expect=1)
    rest = eatnas_within("candidate", "retry", "--search", "flaky")
    assert rest == (
        "search flaky.retry will train 1 failed candidate of search flaky again\n"
        "skipped 2 failed candidates of search flaky: already retried\n"
    )
    nothing = eatnas_within("candidate", "retry", "--search", "flaky", "--where", "failure=lost")
    assert nothing == "nothing to retry: no failed candidate of search flaky with --where failure=lost\n"
    assert "it is the source of flaky.retry; delete flaky.retry first" in eatnas_within(
        "search", "delete", "flaky", "--yes", expect=1
    )
    eatnas_within("search", "delete", "flaky.retry", "--yes")
    assert f"candidate {hung} will train again as candidate" in eatnas_within("candidate", "retry", str(hung))


@pytest.mark.parametrize(
    "arguments", [[], ["1", "--search", "small"], ["1", "--where", "birth=1"], ["--where", "birth=1"]]
)
def test_retry_needs_a_candidate_or_a_search(small, eatnas_within, arguments):
    assert "--search NAME" in eatnas_within("candidate", "retry", *arguments, expect=2)


def test_unknown_column_of_a_retry_is_named(flaky, eatnas_within):
    message = eatnas_within("candidate", "retry", "--search", "flaky", "--where", "cause=hang", expect=1)
    assert "no column 'cause'; the columns are: candidate_id" in message


@pytest.mark.parametrize(
    ("condition", "words"), [("foo=bar", "no column 'foo'; the columns are: candidate_id"), ("birth=x", "numeric")]
)
def test_wrong_condition_is_named_even_without_failures(small, engine, eatnas_within, condition, words):
    with transaction(engine) as connection:
        connection.execute(update(attempt).values(failure=None))
    assert words in eatnas_within("candidate", "retry", "--search", "small", "--where", condition, expect=1)
