"""Fit the models of a transfer's sources before the transaction that stores them, to keep the transaction short."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import Connection, Engine

from eatnas_db.database.transactions import read_transaction, run_transaction
from eatnas_db.domain.macro import Task
from eatnas_db.errors import EatnasError
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.search_space import feasible_space
from eatnas_db.searches.transfer_model import SourceChangedError, list_sources

if TYPE_CHECKING:  # these imports load pydantic and SciPy
    from eatnas_db.domain.spec import SearchSpec
    from eatnas_db.transfer_sources import FittedSource

T = TypeVar("T")
MAX_FITS: Final = 5
"""The maximum number of fits. Scores of settled births hardly ever change, so nearly always one fit is enough."""


def write_with_sources(
    engine: Engine,
    source_name: str,
    spec: SearchSpec,
    task: Task,
    write: Callable[[Connection, tuple[FittedSource, ...]], T],
) -> T:
    """Fit the models of a transfer's sources, call `write` with them in a transaction, and return its result.

    If `write` raises `SourceChangedError`, because the scores of a source have changed since the fit, fit again.
    """

    def fit_and_write() -> T:
        fitted = _fit_sources(engine, source_name, spec, task)
        return run_transaction(engine, lambda connection: write(connection, fitted))

    for _ in range(MAX_FITS - 1):
        with suppress(SourceChangedError):
            return fit_and_write()
    return fit_and_write()


def _fit_sources(engine: Engine, source_name: str, spec: SearchSpec, task: Task) -> tuple[FittedSource, ...]:
    """Return the models of the sources.

    Return no models if a source cannot be used, because `write` then raises the error.
    """
    if spec.transfer.start != "model":
        return ()
    # Import the model only here, because it loads SciPy.
    from eatnas_db.scored_births import list_scored
    from eatnas_db.transfer_sources import fit_scores

    with suppress(EatnasError):
        space = feasible_space(spec, task)
        with read_transaction(engine) as connection:
            sources = list_sources(connection, get_search(connection, source_name), spec, space)
            rows = [list_scored(connection, source.id, source.settled) for source in sources]
        return tuple(
            fit_scores(source.id, source.settled, scored, space) for source, scored in zip(sources, rows, strict=True)
        )
    return ()
