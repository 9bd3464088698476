"""Checks for the tests of packages that extend eatnas-db. Each is imported on first use, because it loads torch."""

from typing import Any

_MODULES = {"check_training": "trainings"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
