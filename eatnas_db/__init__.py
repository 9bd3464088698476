"""A neural architecture search that stores all of its state in a database."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Import `load_model` only on first use, because commands that must start quickly also import this package.
    if name == "load_model":
        from eatnas_db.models import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
