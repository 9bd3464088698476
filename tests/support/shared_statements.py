"""Share compiled statements among the engines of tests. Otherwise, each test would compile its statements again."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Dialect, Engine

_DIALECTS: Final[dict[str, Dialect]] = {}
_STATEMENTS: Final[dict[Any, Any]] = {}


def share_statements(engine: Engine) -> None:
    """Make an engine that is connected to a record use the statements of earlier engines for the same kind of database.

    SQLAlchemy caches compiled statements for each dialect, so the engines also share a dialect.
    """
    engine.dialect = _DIALECTS.setdefault(engine.dialect.name, engine.dialect)
    engine.update_execution_options(compiled_cache=_STATEMENTS)
