"""With `evolution.stop_when: quality_flat`, the end of a search depends only on its steps."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from eatnas_db.database.transactions import transaction
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.leases import LeasedCandidate
from eatnas_db.queries.events import list_events
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.control import extend_search
from eatnas_db.searches.locking import lock_search
from support.databases import ON_SQLITE

LAG, RISES = 3, 6
FLAT = {"evolution__stop_when": "quality_flat", "evolution__flat_steps": 6, "budget__candidates": 200}


@pytest.fixture
def run(
    engine: Engine, lease_factory: Callable[..., LeasedCandidate | None], score_factory: Callable[..., None]
) -> Any:
    """Return a function that runs a search on slots whose trainings finish in random order.

    If `late` is true, advance the search only while all slots are idle.
    """

    def run_search(search_id: int, slots: int, late: bool = False) -> None:
        held: list[LeasedCandidate] = []
        for turn in range(10_000):
            while len(held) < slots and (leased := lease_factory(search_id)) is not None:
                held.append(leased)
            if not held:
                return
            leased = held.pop(KeyedRng(slots, "ends", turn).randbelow(len(held)))
            score_factory(leased, 0.5 + 0.02 * min(leased.birth, RISES))
            if not late or not held:
                with transaction(engine) as connection:
                    advance_search(connection, lock_search(connection, search_id), 3.0)

    return run_search


def read_search(engine: Engine, name: str) -> tuple[SearchRecord, str]:
    with transaction(engine) as connection:
        row = get_search(connection, name)
        return row, get_fingerprint(connection, row.id).sha256


@ON_SQLITE
def test_flat_search_ends_at_the_same_birth_everywhere(
    engine: Engine, search_factory: Callable[..., int], run: Any
) -> None:
    outcomes = set()
    for name, slots, late in (("one", 1, False), ("three", 3, False), ("late", 3, True)):
        run(search_factory(name, **FLAT), slots, late)
        row, fingerprint = read_search(engine, name)
        outcomes.add((fingerprint, row.born, row.flat_since))
        assert row.finished_at is not None
    assert len(outcomes) == 1
    _, born, since = outcomes.pop()
    with transaction(engine) as connection:
        # After the step `since`, quality has not risen by more than 0.001 for 6 steps.
        qualities = {step.number: step.quality for step in list_steps(connection, row.id)}
        (event,) = list_events(connection, row.id, kind="quality_flat")
    best = max(quality for quality in qualities.values() if quality is not None)
    assert since == min(number for number, quality in qualities.items() if quality == best)
    assert event.detail == {"step": since + 6, "since": since, "by": 0.001, "births": born}
    assert born == since + 6 + LAG - 1 < 200
    assert row.ended == f"the quality has not improved by more than 0.001 since step {since}"


@ON_SQLITE
def test_extension_grants_the_full_flat_steps_again(
    engine: Engine, search_factory: Callable[..., int], run: Any
) -> None:
    search_id = search_factory("s", **FLAT)
    run(search_id, 2)
    first, _ = read_search(engine, "s")
    with transaction(engine) as connection:
        extend_search(connection, "s", candidates=10, now=4.0)
    assert read_search(engine, "s")[0].ended is None
    run(search_id, 2)
    extended, _ = read_search(engine, "s")
    assert extended.born == first.born + 6 + LAG - 1
    assert (extended.ended or "").startswith("the quality")


def test_budget_still_ends_the_search(engine: Engine, search_factory: Callable[..., int], run: Any) -> None:
    run(search_factory("s", **{**FLAT, "budget__candidates": 10}), 2)
    row, _ = read_search(engine, "s")
    assert (row.born, row.ends_at, row.ended) == (10, None, "it has trained its budget of candidates")
