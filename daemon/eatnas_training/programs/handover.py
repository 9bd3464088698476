"""Run a blocking function as a generator: the function and its caller take turns in two threads."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

from eatnas_protocol.messages import Report
from eatnas_training.programs.errors import InvalidReportError, ProgramStoppedError

END_SECONDS: Final = 10.0
"""The time, in seconds, in which a function must end after it is asked to stop."""
Steps = Callable[[], Iterator[Report]]


class Handover:
    """A function that runs in a new thread while the generator `reports` waits for it. The function and the generator
    never run at the same time: the function waits in `perform` while the generator runs the given steps.
    """

    def __init__(self, function: Callable[[], None], monotonic: Callable[[], float]) -> None:
        self._function, self._monotonic = function, monotonic
        self._requests: queue.SimpleQueue[Steps | None] = queue.SimpleQueue()
        self._turn = threading.Semaphore(0)
        self._closed = False
        self.stopped = False
        """Whether the function was asked to stop."""
        self.error: BaseException | None = None
        """The exception that the function has raised; None if it has raised none."""
        self._finished_seconds = 0.0
        self._turn_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="program", daemon=True)
        self._process, self._consumer = os.getpid(), 0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """The time, in seconds, that the function has run so far."""
        running = 0.0 if self._turn_began is None else self._monotonic() - self._turn_began
        return self._finished_seconds + running

    @property
    def ended(self) -> bool:
        """Whether the function has ended."""
        return not self._thread.is_alive()

    def reports(self) -> Iterator[Report]:
        """Start the function. Yield the reports of the steps that the function passes to `perform`, until the function
        ends or is stopped.
        """
        self._consumer = threading.get_ident()
        self._thread.start()
        try:
            while not self.stopped and (steps := self._next_steps()) is not None:
                yield from steps()
                self._turn.release()
        finally:
            self._closed = True
            self._turn.release()
        self._thread.join(END_SECONDS)

    def _next_steps(self) -> Steps | None:
        self._turn_began = self._monotonic()
        steps = self._requests.get()
        self._finished_seconds, self._turn_began = self.seconds, None
        return steps

    def perform(self, steps: Steps) -> None:
        """Run `steps` in the generator, which yields their reports. Only the function calls this method, from any of
        its threads.

        Raises `ProgramStoppedError` if the training must stop, and any exception of the steps.
        """
        self.require_own_turn()
        failures: list[BaseException] = []

        def guarded() -> Iterator[Report]:
            try:
                yield from steps()
            # The steps may run code of the program, which may raise any exception.
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                failures.append(error)

        with self._lock:
            if not self.stopped and not self._closed:
                self._requests.put(guarded)
                self._turn.acquire()
        if self.stopped or self._closed:
            raise ProgramStoppedError
        if failures:
            raise failures[0]

    def require_own_turn(self) -> None:
        """Raise `InvalidReportError` if a call of `perform` would wait forever."""
        if os.getpid() != self._process:
            raise InvalidReportError(
                "a child process calls a method of report; only the process of the training may call report.resume, "
                "report.epoch, report.checkpoint and report.progress"
            )
        if threading.get_ident() == self._consumer:
            raise InvalidReportError("the function that is given to report.checkpoint calls report; return the state")

    def stop(self) -> None:
        """End the function: its current or next call of `perform` raises `ProgramStoppedError`. Only steps call this
        method.
        """
        self.stopped = True

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self.error = error
        finally:
            self._requests.put(None)
