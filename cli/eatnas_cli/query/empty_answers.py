"""Explain an empty answer: say what the query selects, and give the reason."""

from __future__ import annotations

from sqlalchemy import Connection

from eatnas_cli.query.page_options import describe_conditions
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import ConflictError
from eatnas_db.queries.paging import EVERYTHING, Page
from eatnas_db.queries.progress import get_progress
from eatnas_db.queries.searches import SearchRecord


def explain_empty(connection: Connection, search: SearchRecord, what: str, page: Page = EVERYTHING) -> str:
    """Explain in a sentence why the search has no `what` that the page selects."""
    sentence = f"search {search.name!r} has no {what}{describe_conditions(page)}"
    cause = explain_progress(connection, search)
    return f"{sentence}: {cause}" if cause else sentence


def explain_progress(connection: Connection, search: SearchRecord) -> str:
    """Explain why a search has no results yet, and what to do. Return an empty string if the search has results."""
    counters = get_progress(connection, search.id)
    if counters.scored:
        return ""
    counts = {"waiting": counters.pending, "in training": counters.leased, "failed": counters.failed}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    cause = f"none of its candidates has a score ({states})" if states else "it has no candidates"
    if counters.failed:
        return f"{cause}; `eatnas-db query failures {search.name}` shows why they failed"
    if counters.leased or search.finished_at is not None or search.wish != DesiredState.RUN:
        return f"{cause}; its status is {search.status}"
    return f"{cause}; `eatnas-db run {search.name}` trains it"


def require_data(rows: object, sentence: str) -> None:
    """Raise `ConflictError` with `sentence` if there are no rows, so that no empty picture is written."""
    if not rows:
        raise ConflictError(f"nothing to draw: {sentence}")
