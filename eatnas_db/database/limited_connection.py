"""Connections to a server that wait only for a limited time for its answer.

The server's own limits do not help if the server is frozen, because its kernel still acknowledges received data.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

from sqlalchemy import Engine, event

R = TypeVar("R")


def limit_answers(engine: Engine, seconds: float) -> None:
    """Let connections of the engine close themselves, and raise, when the server sends nothing for `seconds`."""
    from psycopg import Connection, OperationalError

    class LimitedConnection(Connection[Any]):
        def wait(self, gen: Generator[Any, Any, R], *args: Any, **options: Any) -> R:
            return super().wait(self._limit(gen), *args, **options)

        def _limit(self, steps: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
            """Do the steps of an operation; psycopg sends 0 into it in each tenth of a second without an answer."""
            deadline = time.monotonic() + seconds
            ready: Any = None
            while True:
                try:
                    wanted = steps.send(ready)
                except StopIteration as end:
                    result: R = end.value
                    return result
                ready = yield wanted
                if ready:
                    deadline = time.monotonic() + seconds
                elif time.monotonic() >= deadline:
                    steps.close()
                    self.pgconn.finish()
                    raise OperationalError(f"no answer within {seconds:g} s")

    def connect(_dialect: Any, _record: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return LimitedConnection.connect(*arguments, **options)

    event.listen(engine, "do_connect", connect)
