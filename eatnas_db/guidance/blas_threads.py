"""Limit linear algebra to one thread: the matrices are small, and trainings need the other cores."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from scipy import linalg  # noqa: F401  (The controller finds the libraries that are loaded before it is made.)
from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Limit linear algebra in this process to one thread, until the context ends."""
    return _controller().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
