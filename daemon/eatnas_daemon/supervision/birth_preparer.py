"""Use a thread to decide births that need the model, so that neither the transaction nor the workers wait for the
decision.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress

from sqlalchemy import Engine

from eatnas_db.searches.prepared_births import PreparedBirth, prepare_births


class BirthPreparer:
    """Prepares births that a transaction has requested but that were not decided yet, and then wakes the supervisor.

    `prepare` decides the next births of a search. `executor` runs `prepare` for one search at a time.
    """

    def __init__(
        self,
        engine: Engine,
        selector: selectors.BaseSelector,
        executor: Executor | None = None,
        prepare: Callable[[Engine, int], tuple[PreparedBirth, ...]] = prepare_births,
    ) -> None:
        self._engine, self._selector, self._prepare = engine, selector, prepare
        self._executor = executor or ThreadPoolExecutor(1, "births")
        self._running: dict[int, Future[tuple[PreparedBirth, ...]]] = {}
        self._wanted: set[int] = set()
        self._asked: set[int] = set()
        self._read_fd, self._write_fd = os.pipe()
        for descriptor in (self._read_fd, self._write_fd):
            os.set_blocking(descriptor, False)
        selector.register(self._read_fd, selectors.EVENT_READ)

    def take(self, search_id: int, number: int) -> PreparedBirth | None:
        """Return the birth `number` of a search if it was decided before this transaction, otherwise None.

        The next `start` decides a missing birth. Raises the exception of the decision, if the decision raised one.
        """
        self._asked.add(search_id)
        future = self._running.get(search_id)
        if future is not None and not future.done():
            return None
        if future is not None:
            try:
                for birth in future.result():
                    if birth.inputs.number == number:
                        return birth
            except Exception:
                del self._running[search_id]  # The next transaction requests the births again.
                raise
        self._wanted.add(search_id)
        return None

    def discard(self, search_id: int) -> None:
        """Request a new decision about the births of a search, because the record has changed."""
        self._wanted.add(search_id)

    def start(self) -> None:
        """Start to decide the births that the last transaction requested and did not get."""
        asked, self._asked = self._asked, set()
        self._running = {
            search_id: future for search_id, future in self._running.items() if search_id in asked or not future.done()
        }
        for search_id in sorted(self._wanted):
            future = self._executor.submit(self._prepare, self._engine, search_id)
            self._running[search_id] = future
            future.add_done_callback(self._wake)
        self._wanted.clear()

    def poll(self) -> bool:
        """Return whether births were decided since the last call."""
        with suppress(BlockingIOError):
            return bool(os.read(self._read_fd, 4096))
        return False

    def close(self) -> None:
        """Wait for the decision that is being made, and cancel all other decisions."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._selector.unregister(self._read_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _wake(self, _: object) -> None:
        with suppress(BlockingIOError):  # A full pipe wakes the supervisor anyway.
            os.write(self._write_fd, b"\0")
