"""Connections that limit how long they wait for the answer of a server.

If a server is frozen, the server's own time limits do not end the wait. TCP's time limits do not end it either, because
the kernel of the server still acknowledges data.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

from sqlalchemy import Engine, event

R = TypeVar("R")


def limit_answers(engine: Engine, seconds: float) -> None:
    """Make each connection of the engine close and raise an error if the server sends nothing for `seconds`."""
    from psycopg import Connection, OperationalError

    class LimitedConnection(Connection[Any]):
        def wait(self, gen: Generator[Any, Any, R], *args: Any, **options: Any) -> R:
            return super().wait(self._limit(gen), *args, **options)

        def _limit(self, steps: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
            """Run the steps of an operation, and raise an error after the time limit.

            For each tenth of a second without an answer, psycopg sends 0 to the generator.
            """
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
