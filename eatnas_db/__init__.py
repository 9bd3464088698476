"""A neural architecture search that stores all of its state in a database."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Load it on first use, because quick commands import this package, too.
    if name == "load_model":
        from eatnas_db.models import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
