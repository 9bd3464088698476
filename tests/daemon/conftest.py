"""Fixtures for searches that a supervisor runs with simulated workers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eatnas_db.settings import Settings
from support.searches import FAST_WORKER, create_home, supervise_search


@pytest.fixture(scope="session")
def fast() -> tuple[str, ...]:
    """Return the command of a simulated worker with short epochs."""
    return FAST_WORKER


@pytest.fixture(scope="session")
def home() -> Callable[..., Settings]:
    """Return a function that creates a home with one search."""
    return create_home


@pytest.fixture(scope="session")
def supervise() -> Callable[..., str]:
    """Return a function that supervises the search of a home and returns its fingerprint."""
    return supervise_search
