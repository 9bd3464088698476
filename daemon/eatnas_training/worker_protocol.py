"""The worker's side of the protocol, over any trainer. No torch: the arithmetic worker uses it too."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final

from eatnas_protocol.messages import (
    Assign,
    Cancel,
    Checkpoint,
    Decoder,
    EpochDone,
    Exit,
    Failed,
    Finished,
    Heartbeat,
    Message,
    Ready,
    Release,
    Released,
    Unavailable,
    Up,
    encode,
)

IDLE_SECONDS: Final = 0.5
PIECE_BYTES: Final = 65536


class StopRequest(IntEnum):
    """What the supervisor wants of the training in hand; a larger one overrules a smaller one."""

    GO_ON = 0
    CHECKPOINT = 1
    RELEASE = 2
    CANCEL = 3


Trainer = Callable[[Assign, Callable[[], StopRequest]], Iterator[Up]]
"""Trains one candidate, asking between batches what is wanted, and yields reports."""


class WorkerProtocol:
    """One worker's talk with its supervisor, from `Ready` to the end of either."""

    def __init__(self, in_fd: int, out_fd: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._in, self._out, self._monotonic = in_fd, out_fd, monotonic
        self._decoder = Decoder()
        self._assignments: deque[Assign] = deque()
        self._current = (0, 0)
        self._wishes: dict[tuple[int, int], StopRequest] = {}
        self._leaving = False
        self._lease_seconds: float | None = None
        self._heard_at = monotonic()

    def run(self, hello: Ready, trainer: Trainer) -> None:
        """Say hello, then train what is assigned until told to leave or left alone."""
        self._say(hello)
        while not self._leaving:
            self._listen(IDLE_SECONDS)
            while self._assignments and not self._leaving:
                self._train(self._assignments.popleft(), trainer)

    def refuse(self, reason: str) -> None:
        """Say, instead of hello, why nothing can be trained here."""
        self._say(Unavailable(reason))

    def leave(self) -> None:
        """Release what is in hand, then end `run`. Safe in a signal handler."""
        self._leaving = True

    def wanted(self) -> StopRequest:
        """What is wanted now; never waits. `CHECKPOINT` is said once, the others until obeyed."""
        self._listen(0)
        wish = self._wishes[self._current]
        if wish is StopRequest.CHECKPOINT:
            self._wishes[self._current] = StopRequest.GO_ON
        return max(wish, StopRequest.RELEASE) if self._leaving else wish

    def _train(self, assign: Assign, trainer: Trainer) -> None:
        self._current = (assign.candidate, assign.attempt)
        self._wishes.setdefault(self._current, StopRequest.GO_ON)
        last = False
        try:
            with _output_to(Path(assign.log_file)):
                for report in trainer(assign, self.wanted):
                    _log(report)
                    self._say(report)
                    last = isinstance(report, Finished | Released | Failed)
                    if isinstance(report, Failed) and report.fatal:
                        self.leave()
        except Exception as error:
            # What a trainer does not expect leaves its process in a state that nobody knows.
            if last:
                traceback.print_exc()
            else:
                self._say(_failed(assign, error))
            self.leave()
        finally:
            self._wishes.pop(self._current, None)

    def _listen(self, seconds: float) -> None:
        """Take in what has come, waiting up to `seconds` for it."""
        if self._leaving:
            return
        while select.select([self._in], [], [], seconds)[0]:
            piece = os.read(self._in, PIECE_BYTES)
            if not piece:
                self.leave()
                return
            self._heard_at = self._monotonic()
            for message in self._decoder.feed(piece):
                self._take(message)
            seconds = 0
        # After reading: whoever slept finds the beats of the meantime in the pipe.
        silence = self._monotonic() - self._heard_at
        if self._lease_seconds is not None and silence > self._lease_seconds:
            self.leave()

    def _take(self, message: Message) -> None:
        match message:
            case Assign():
                self._assignments.append(message)
                self._wishes[message.candidate, message.attempt] = StopRequest.GO_ON
            case Checkpoint():
                self._want(message, StopRequest.CHECKPOINT)
            case Release():
                self._want(message, StopRequest.RELEASE)
            case Cancel():
                self._want(message, StopRequest.CANCEL)
            case Exit():
                self.leave()
            case Heartbeat():
                self._lease_seconds = message.lease_seconds

    def _want(self, message: Checkpoint | Release | Cancel, wanted: StopRequest) -> None:
        # A request that crossed the end of its own training must not hit the next one.
        token = (message.candidate, message.attempt)
        if token in self._wishes:
            self._wishes[token] = max(self._wishes[token], wanted)

    def _say(self, report: Up) -> None:
        """Send a report. To a supervisor that is gone or deaf nothing is sent, and the worker leaves."""
        content = encode(report)
        try:
            while content:
                if not select.select([], [self._out], [], self._lease_seconds)[1]:
                    self.leave()
                    return
                # Pieces that a writable pipe takes without blocking.
                content = content[os.write(self._out, content[: select.PIPE_BUF]) :]
        except (BrokenPipeError, ConnectionError):
            self.leave()


def leave_politely(conversation: WorkerProtocol) -> None:
    """SIGTERM: release, then leave. SIGINT is the supervisor's to answer: Ctrl-C hits the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: conversation.leave())


@contextlib.contextmanager
def _output_to(log_file: Path) -> Iterator[None]:
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:  # a full disk of the logs costs the log, and no training
        yield
        return
    kept = [(stream, os.dup(stream.fileno())) for stream in (sys.__stdout__, sys.__stderr__) if stream]
    try:
        for stream, _ in kept:
            stream.flush()
            os.dup2(log, stream.fileno())
        yield
    finally:
        os.close(log)
        for stream, copy in kept:
            with contextlib.suppress(OSError):
                stream.flush()
            os.dup2(copy, stream.fileno())
            os.close(copy)


def _log(report: Up) -> None:
    match report:
        case EpochDone():
            line = f"epoch {report.epoch}: train loss {report.train_loss:.4f}, accuracy {report.train_accuracy:.4f}; "
            if report.val_loss is not None and report.val_accuracy is not None:
                line += f"validation loss {report.val_loss:.4f}, accuracy {report.val_accuracy:.4f}; "
            line += f"{report.seconds:.2f} s"
        case Failed():
            line = f"failed ({report.kind}): {report.message}\n{report.traceback}".rstrip()
        case _:
            return
    # Unbuffered: on a full disk a line of the log is lost, and never the training.
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _failed(assign: Assign, error: Exception) -> Failed:
    text = "".join(traceback.format_exception(error))
    return Failed(assign.candidate, assign.attempt, "exception", str(error), text, 0.0, fatal=True)
