"""The worker's side of the protocol, for any trainer.

This module does not import torch, because the tests' simulated worker imports it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, TextIO, assert_never, cast

from eatnas_db.domain.states import FailureKind
from eatnas_protocol.framing import Decoder, encode
from eatnas_protocol.messages import (
    Assign,
    Cancel,
    Command,
    EpochDone,
    Exit,
    Failed,
    FinalReport,
    Heartbeat,
    Ready,
    Release,
    Released,
    Report,
    Unavailable,
)

POLL_SECONDS: Final = 0.5
PROGRESS_SECONDS: Final = 0.5
"""The shortest time between two `Progress` reports of a training, in seconds."""
CHUNK_BYTES: Final = 65536


class StopRequest(IntEnum):
    """The requested way to stop the current training. A larger value overrides a smaller one."""

    NONE = 0
    RELEASE = 1
    CANCEL = 2


Trainer = Callable[[Assign, Callable[[], StopRequest]], Iterator[Report | None]]
"""Trains one candidate and yields reports. It calls its second argument between batches.

It yields None when another training of this process may have its turn.
"""


class WorkerProtocol:
    """Exchanges messages with the supervisor over two file descriptors, and trains the assigned candidates."""

    def __init__(self, in_fd: int, out_fd: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._in_fd, self._out_fd, self._monotonic = in_fd, out_fd, monotonic
        self._decoder = Decoder()
        self._assignments: deque[Assign] = deque()
        self._current = (0, 0)
        self._stop_requests: dict[tuple[int, int], StopRequest] = {}
        self._exiting = False
        self.takes_turns = False
        """Whether this object serves one of several lanes of the process."""
        self.trains = False
        """Whether a training has begun and not ended."""
        self.broken = False
        """Whether a training has left the process in a state in which no training can continue."""
        self._lease_seconds: float | None = None
        self._received_at = monotonic()

    def run(self, ready: Ready, trainer: Trainer) -> None:
        """Send `ready`, then train assignments until `Exit`, a closed pipe or the end of the lease."""
        for trains in self.turns(ready, trainer):
            if not trains:
                select.select([self._in_fd], [], [], POLL_SECONDS)

    def turns(self, ready: Ready, trainer: Trainer) -> Iterator[bool]:
        """Do the same as `run`, and yield whenever another lane may have its turn.

        The yielded value is true while this lane has a training.
        """
        self._send(ready)
        while not self._exiting:
            self._receive(0)
            while self._assignments and not self._exiting:
                yield from self._train(self._assignments.popleft(), trainer)
            if not self._exiting:
                yield False
        # `Exit` arrived together with these assignments, before their trainings began.
        for assign in self._assignments:
            self._send(Released(assign.candidate, assign.attempt, device_seconds=0.0))

    @property
    def in_fd(self) -> int:
        """The descriptor that is readable when a command has arrived."""
        return self._in_fd

    def close(self) -> None:
        """Close both descriptors, so that the supervisor notices the end of this lane."""
        os.close(self._in_fd)
        os.close(self._out_fd)

    def send_unavailable(self, reason: str) -> None:
        """Report that this worker cannot train. Call this instead of `run`."""
        self._send(Unavailable(reason))

    def exit(self) -> None:
        """Release the current training, then return from `run`. Safe in a signal handler."""
        self._exiting = True

    def stop_request(self) -> StopRequest:
        """Return the request for the current training, after reading pending messages; never wait."""
        self._receive(0)
        request = self._stop_requests[self._current]
        return max(request, StopRequest.RELEASE) if self._exiting else request

    def _train(self, assign: Assign, trainer: Trainer) -> Iterator[bool]:
        self._current = (assign.candidate, assign.attempt)
        self._stop_requests.setdefault(self._current, StopRequest.NONE)
        self.trains, ended = True, False
        try:
            with _output_to(Path(assign.log_file)) as output:
                for report in trainer(assign, self.stop_request):
                    if report is None:
                        if self.takes_turns:
                            with output.paused():
                                yield True
                        continue
                    _log(report)
                    self._send(report)
                    ended = isinstance(report, FinalReport)
                    if isinstance(report, Failed) and report.fatal:
                        self._break()
        except Exception as error:
            # A trainer reports the exceptions that it expects. After any other exception, the state of this process is
            # unknown.
            if ended:
                traceback.print_exc()
            else:
                self._send(_failure(assign, error))
            self._break()
        finally:
            self.trains = False
            self._stop_requests.pop(self._current, None)

    def _break(self) -> None:
        self.broken = True
        self.exit()

    def _receive(self, seconds: float) -> None:
        """Handle the commands that have arrived. Wait up to `seconds` for the first one."""
        if self._exiting:
            return
        while select.select([self._in_fd], [], [], seconds)[0]:
            chunk = os.read(self._in_fd, CHUNK_BYTES)
            if not chunk:
                self.exit()
                return
            self._received_at = self._monotonic()
            for message in self._decoder.feed(chunk):
                self._handle(cast("Command", message))
            seconds = 0
        # Check after reading, because the pipe still holds the heartbeats that arrived while this process was
        # suspended.
        silence = self._monotonic() - self._received_at
        if self._lease_seconds is not None and silence > self._lease_seconds:
            self.exit()

    def _handle(self, command: Command) -> None:
        match command:
            case Assign():
                self._assignments.append(command)
                self._stop_requests[command.candidate, command.attempt] = StopRequest.NONE
            case Release():
                self._request_stop(command, StopRequest.RELEASE)
            case Cancel():
                self._request_stop(command, StopRequest.CANCEL)
            case Exit():
                self.exit()
            case Heartbeat():
                self._lease_seconds = command.lease_seconds
            case _:
                assert_never(command)

    def _request_stop(self, command: Release | Cancel, request: StopRequest) -> None:
        # The training may have ended before the command arrived, and the command must not stop the next training.
        token = (command.candidate, command.attempt)
        if token in self._stop_requests:
            self._stop_requests[token] = max(self._stop_requests[token], request)

    def _send(self, report: Report) -> None:
        """Send a report. Exit if the supervisor has closed the pipe or reads nothing for the length of a lease."""
        content = encode(report)
        try:
            while content:
                if not select.select([], [self._out_fd], [], self._lease_seconds)[1]:
                    self.exit()
                    return
                # A writable pipe takes PIPE_BUF bytes without blocking.
                content = content[os.write(self._out_fd, content[: select.PIPE_BUF]) :]
        except (BrokenPipeError, ConnectionError):
            self.exit()


def handle_signals(*protocols: WorkerProtocol) -> None:
    """Exit on SIGTERM after releasing the trainings; ignore SIGINT, because Ctrl-C also reaches the supervisor."""

    def exit_all() -> None:
        for protocol in protocols:
            protocol.exit()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: exit_all())


class _TrainingLog:
    """The log file of a candidate, to which stdout and stderr of this process go while it trains.

    `streams` pairs each stream with a duplicate of its original descriptor.
    """

    def __init__(self, log: int, streams: Sequence[tuple[TextIO, int]]) -> None:
        self._log, self._streams = log, streams

    def begin(self) -> None:
        for stream, _ in self._streams:
            stream.flush()
            os.dup2(self._log, stream.fileno())

    def end(self) -> None:
        for stream, copy in self._streams:
            with contextlib.suppress(OSError):
                stream.flush()
            os.dup2(copy, stream.fileno())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave stdout and stderr to other trainings inside the `with` block."""
        self.end()
        yield
        self.begin()


@contextlib.contextmanager
def _output_to(log_file: Path) -> Iterator[_TrainingLog]:
    try:
        log_file.parent.mkdir(exist_ok=True)
        log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:  # on a full disk the log is lost, but the training continues
        yield _TrainingLog(-1, ())
        return
    saved = [(stream, os.dup(stream.fileno())) for stream in (sys.__stdout__, sys.__stderr__) if stream]
    output = _TrainingLog(log, saved)
    try:
        output.begin()
        yield output
    finally:
        output.end()
        for descriptor in (log, *(copy for _, copy in saved)):
            os.close(descriptor)


def _log(report: Report) -> None:
    match report:
        case EpochDone():
            line = f"epoch {report.epoch}: {_describe_metrics(report)}{report.seconds:.2f} s"
        case Failed():
            line = f"failed ({report.kind}): {report.message}\n{report.traceback}".rstrip()
        case _:
            return
    # Write unbuffered, so that a full disk loses a line of the log and does not end the training.
    with contextlib.suppress(OSError):
        # A file name in a message may not be valid UTF-8.
        os.write(1, f"{line}\n".encode(errors="backslashreplace"))


def _describe_metrics(report: EpochDone) -> str:
    parts = [("train loss", report.train_loss), ("train accuracy", report.train_accuracy)]
    parts += [("validation loss", report.val_loss), ("validation accuracy", report.val_accuracy)]
    parts += list((report.metrics or {}).items())
    return "".join(f"{name} {value:.4f}; " for name, value in parts if value is not None)


def _failure(assign: Assign, error: Exception) -> Failed:
    return Failed(
        candidate=assign.candidate,
        attempt=assign.attempt,
        kind=FailureKind.EXCEPTION,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        device_seconds=0.0,
        fatal=True,
    )
