"""Check that source searches still have the scores to which the models of transferred searches were fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy import Engine

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.space import Space
from eatnas_db.domain.states import SearchKind
from eatnas_db.errors import EatnasError
from eatnas_db.integrity.violations import Violation, summarize_offenders
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.spaces import read_space


def check_sources(engine: Engine) -> Iterator[Violation]:
    """Yield the transferred searches whose sources no longer have the scores to which the stored model was fitted."""
    changed: list[str] = []
    with read_transaction(engine) as connection:
        searches = list_searches(connection)
    for record in searches:
        # The replay of births reports a search whose spec cannot be read.
        with suppress(EatnasError, AttributeError, KeyError, TypeError, ValueError):
            if record.kind == SearchKind.EVOLUTION and record.has_sources and not _has_sources(engine, record):
                changed.append(record.name)
    yield from summarize_offenders(
        "the sources of each transferred model have the scores to which the model was fitted", "searches", changed
    )


def _has_sources(engine: Engine, record: SearchRecord) -> bool:
    # Import the model only here, because it loads SciPy.
    from eatnas_db.guidance.blas_threads import one_thread
    from eatnas_db.guidance.block_codes import BlockCodes
    from eatnas_db.guidance.gaussian_process import Kernel, ProcessModel
    from eatnas_db.guidance.verification import may_choose_model
    from eatnas_db.scored_births import encode_rows, list_scored
    from eatnas_db.transfer_sources import digest_of, list_stored_sources

    with read_transaction(engine) as connection:
        stored = list_stored_sources(connection, record.id)
        scored = [list_scored(connection, source.source_id, source.births) for source in stored]
    space = Space(read_space(record.macro), Task(**record.task))
    for source, rows in zip(stored, scored, strict=True):
        if (len(rows), digest_of(rows)) != (source.scores, source.digest):
            return False
        model = ProcessModel(Kernel(*source.kernel), source.noise)
        with one_thread():
            if not may_choose_model(BlockCodes(space).encoding, encode_rows(space, rows), model):
                return False
    return len(stored) == 1 + len(record.spec["transfer"].get("sources", ()))
