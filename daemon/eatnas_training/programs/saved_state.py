"""Check the state that a user's own training function saves in a checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from torch import Tensor

from eatnas_training.programs.errors import InvalidReportError

_PLAIN: Final = (bool, int, float, str, bytes, type(None))
_MAX_DEPTH: Final = 50


def require_storable(state: Any, path: str = "state", depth: int = 0) -> None:
    """Raise `InvalidReportError` unless a checkpoint can store and restore the state without running pickled code."""
    if type(state) in _PLAIN or isinstance(state, Tensor):
        return
    if depth > _MAX_DEPTH:
        raise InvalidReportError(f"report.checkpoint: {path[:200]} is nested too deeply, or contains itself")
    if type(state) in (dict, OrderedDict):
        for key, value in state.items():
            if type(key) not in (str, int):
                raise InvalidReportError(f"report.checkpoint: the key {key!r} of {path} is not a string or integer")
            require_storable(value, f"{path}[{key!r}]", depth + 1)
    elif type(state) in (list, tuple):
        for number, value in enumerate(state):
            require_storable(value, f"{path}[{number}]", depth + 1)
    else:
        kind = f"{type(state).__module__}.{type(state).__qualname__}"
        raise InvalidReportError(
            f"report.checkpoint: {path} is of type {kind}; use tensors, numbers, strings, lists and dictionaries "
            "(for a network or an optimizer, its state_dict())"
        )
