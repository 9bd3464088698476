"""Checks for the tests of packages that extend eatnas-db.

Each check is imported on first use, because the checks load torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eatnas_db.testing.datasets import check_dataset
    from eatnas_db.testing.operators import check_operator
    from eatnas_db.testing.spaces import check_space
    from eatnas_db.testing.trainings import check_training

__all__ = ["check_dataset", "check_operator", "check_space", "check_training"]

_MODULES = {
    "check_dataset": "datasets",
    "check_operator": "operators",
    "check_space": "spaces",
    "check_training": "trainings",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
