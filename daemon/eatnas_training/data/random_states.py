"""Detect draws from global random generators. Code that draws from such a generator gives different results in each
process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from eatnas_db.errors import DataError


@contextmanager
def refuse_global_draws(name: str) -> Iterator[None]:
    """Raise `DataError` if a data set draws from a global generator in this context. At the end, restore all
    generators.
    """
    with watch_global_draws() as drawn:
        yield
    if drawn:
        raise DataError(
            f"{name} draws from the global generator of {' and '.join(drawn)}, so its items differ between processes; "
            "it must seed a generator of its own, for example numpy.random.default_rng(index)"
        )


@contextmanager
def watch_global_draws() -> Iterator[list[str]]:
    """Yield a list. When the context ends, add to the list the libraries from whose global generators the code has
    drawn, and restore all generators.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn: list[str] = []
    try:
        yield drawn
        drawn += _list_changed(before)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _list_changed(before: tuple[object, object, torch.Tensor]) -> list[str]:
    numpy_state = np.random.get_state(legacy=False)
    former = before[1]
    assert isinstance(former, tuple)
    assert isinstance(numpy_state, dict)
    same_numpy = np.array_equal(former[1], numpy_state["state"]["key"]) and former[2] == numpy_state["state"]["pos"]
    changed = {
        "random": random.getstate() != before[0],
        "numpy.random": not same_numpy,
        "torch": not torch.equal(torch.get_rng_state(), before[2]),
    }
    return [library for library, differs in changed.items() if differs]
