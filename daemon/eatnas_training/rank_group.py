"""Start and direct the other processes of a training on several devices. The worker itself has rank 0.

The worker starts one process for each other rank when a training begins, and ends these processes with the training.
Every process computes its part of each batch, and the gradients are added up. If a rank dies, freezes or fails, the
training fails for the same reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import psutil
from torch import Tensor

from eatnas_db.domain.states import FailureKind
from eatnas_db.interpreter import python_command
from eatnas_protocol.messages import Assign, Phase
from eatnas_training import collective
from eatnas_training.collective import CollectiveError
from eatnas_training.failures import RankError
from eatnas_training.worker_protocol import StopRequest

PROGRAM: Final = "eatnas_training.rank"
STEP_SECONDS: Final = 60.0
"""The longest time, in seconds, that the first rank waits for the last rank at the end of a step.

The supervisor waits twice as long.
"""
LOADING_SECONDS: Final = 900.0
"""The longest time, in seconds, that a rank may take to load its images."""
END_SECONDS: Final = 5.0
"""The time, in seconds, that a rank has to report its failure and exit."""
POLL_SECONDS: Final = 0.05
CHUNK_BYTES: Final = 65536


@dataclass(slots=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    report_fd: int
    received: bytearray = field(default_factory=bytearray)

    def report(self) -> dict[str, str] | None:
        """Return the first report of this rank, or None if none has arrived yet."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.report_fd, CHUNK_BYTES):
                self.received += chunk
        lines = bytes(self.received).split(b"\n")
        return json.loads(lines[-2]) if len(lines) > 1 else None


class RankGroup:
    """Starts, directs and ends the processes of ranks 1 to `count` - 1."""

    def __init__(
        self,
        assign: Assign,
        count: int,
        step_seconds: float = STEP_SECONDS,
        *,
        loading_seconds: float = LOADING_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._assign, self.count, self._seconds, self._monotonic = assign, count, step_seconds, monotonic
        self._store = collective.open_tcp_store(0, count, 0, loading_seconds)
        self._loaded_by = monotonic() + loading_seconds
        self._loading_seconds = loading_seconds
        self._ranks: list[_Rank] = []
        for number in range(1, count):
            self._ranks.append(_start(number))
            request = {"assign": asdict(assign), "rank": number, "count": count}
            request |= {"port": self._store.port, "seconds": step_seconds}
            self._send(self._ranks[-1], json.dumps(request))

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [rank.process.pid for rank in self._ranks]

    def is_ready(self, digest: str) -> bool:
        """Return whether all ranks have loaded the images with this digest.

        Raises `RankError` if a rank has failed or has loaded other images.
        """
        reports = {rank.number: rank.report() for rank in self._ranks}
        if any(rank.process.poll() is not None for rank in self._ranks):
            raise self._explain("before the first step")
        for number, report in reports.items():
            if report is not None and report.get("digest", digest) != digest:
                raise RankError(FailureKind.UNREADABLE_DATA, f"rank {number} and rank 0 have loaded different images")
        if self._monotonic() > self._loaded_by and None in reports.values():
            raise self._explain("while loading images", self._loading_seconds)
        return None not in reports.values()

    def connect(
        self, digest: str, state: bytes, stop_request: Callable[[], StopRequest]
    ) -> Generator[Phase, None, bool]:
        """Wait until all ranks have loaded the images with this digest. Then send the state of the training to all
        ranks. Return False if a stop is requested while some ranks are still loading. Raises `RankError`.
        """
        while not self.is_ready(digest):
            if stop_request() is not StopRequest.NONE:
                return False
            yield Phase(self._assign.candidate, self._assign.attempt, "loading")
            time.sleep(POLL_SECONDS)
        try:
            collective.join(self._store, 0, self.count, self._seconds)
            collective.broadcast(state)
        except CollectiveError as error:
            raise self._explain("before the first step") from error
        return True

    def begin_step(self) -> None:
        """Tell the other ranks to compute their parts of the next batch."""
        for rank in self._ranks:
            self._send(rank, "step")

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks. Raises `RankError`."""
        try:
            collective.add_up(tensors)
        except CollectiveError as error:
            raise self._explain("in a step") from error

    def close(self) -> None:
        """End all ranks."""
        for rank in self._ranks:
            rank.process.kill()
            rank.process.wait()
            os.close(rank.report_fd)
            assert rank.process.stdin is not None
            with contextlib.suppress(OSError):
                rank.process.stdin.close()
        self._ranks.clear()
        collective.leave()

    def _send(self, rank: _Rank, line: str) -> None:
        assert rank.process.stdin is not None
        with contextlib.suppress(OSError):  # the rank has ended, and the next exchange explains why
            rank.process.stdin.write(line.encode() + b"\n")
            rank.process.stdin.flush()

    def _explain(self, when: str, seconds: float | None = None) -> RankError:
        """Return the failure that caused the other ranks to fail. `seconds` is the time limit for a silent rank."""
        suspended = [rank for rank in self._ranks if _is_suspended(rank.process.pid)]
        if suspended:
            return RankError(FailureKind.LOST, f"rank {suspended[0].number} was suspended {when}")
        deadline = self._monotonic() + END_SECONDS
        while self._monotonic() < deadline and any(rank.process.poll() is None for rank in self._ranks):
            if any(rank.process.poll() not in (None, 1) for rank in self._ranks):
                break
            time.sleep(0.02)
        for rank in self._ranks:
            report = rank.report()
            if report is not None and "kind" in report:
                return RankError(FailureKind(report["kind"]), f"rank {rank.number}: {report['message']}")
        for rank in self._ranks:
            if (status := rank.process.poll()) not in (None, 1):
                return _ended(rank.number, status or 0, when)
        running = [str(rank.number) for rank in self._ranks if rank.process.poll() is None]
        names = f"rank {running[0]}" if len(running) == 1 else f"ranks {', '.join(running) or 'of this training'}"
        waited = self._seconds if seconds is None else seconds
        return RankError(FailureKind.HANG, f"no message from {names} for {waited:g} s {when}")


def _start(number: int) -> _Rank:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    process = subprocess.Popen(
        python_command("-m", PROGRAM, "--report-fd", str(write_fd)), stdin=subprocess.PIPE, pass_fds=(write_fd,)
    )
    os.close(write_fd)
    return _Rank(number, process, read_fd)


def _is_suspended(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _ended(number: int, status: int, when: str) -> RankError:
    if status >= 0:
        return RankError(FailureKind.LOST, f"rank {number} exited with status {status} {when}")
    kind = FailureKind.LOST if -status in (signal.SIGKILL, signal.SIGTERM) else FailureKind.SIGNAL
    return RankError(kind, f"rank {number} was killed by {signal.Signals(-status).name} {when}")
