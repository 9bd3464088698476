"""Observe whether a transaction is open while a function runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType

from sqlalchemy import Engine, event


@contextmanager
def observed_calls(engine: Engine, *functions: Callable[..., object]) -> Iterator[list[tuple[str, int]]]:
    """Yield a list with an entry for each call in this thread: the name of the function, and the number of open
    transactions.

    The functions run unchanged: Python's profiler reports their calls.
    """
    codes = {function.__code__ for function in functions if isinstance(function, FunctionType)}
    assert len(codes) == len(functions)
    calls: list[tuple[str, int]] = []
    open_transactions = 0

    def count(change: int) -> Callable[[object], None]:
        def changed(_: object) -> None:
            nonlocal open_transactions
            open_transactions += change

        return changed

    def profile(frame: FrameType, happened: str, _: object) -> None:
        if happened == "call" and frame.f_code in codes:
            calls.append((frame.f_code.co_name, open_transactions))

    listeners = {"begin": count(1), "commit": count(-1), "rollback": count(-1)}
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        for name, listener in listeners.items():
            event.remove(engine, name, listener)
