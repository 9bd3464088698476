"""`python -m eatnas_training.simulated_worker`: a worker that speaks the whole protocol and trains nothing.

Its metrics are a pure function of (seed, architecture, epoch): tests of crashes, protocol and scale use it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from eatnas_db.domain.architecture import KERNELS, OPS, Architecture, digest
from eatnas_db.domain.rng import KeyedRng
from eatnas_protocol.messages import (
    Assign,
    EpochDone,
    Failed,
    Finished,
    Phase,
    Progress,
    Ready,
    Released,
    Up,
)
from eatnas_training import checkpoint
from eatnas_training.worker_protocol import StopRequest, WorkerProtocol, leave_politely

SLICE_SECONDS: Final = 0.02
BATCHES: Final = 1


@dataclass(frozen=True, slots=True)
class Pace:
    """How long an epoch pretends to take, and which candidate goes wrong in its second epoch, and how.

    `crash_on` kills the worker and `hang_on` blocks it, deaf to SIGTERM and with a child of its own, each at
    the first attempt; `fail_on` raises at every attempt; `break_on` at the first and once more while it is tidied up,
    as after an error of CUDA's; `memory_on` runs out of memory at the first so many.
    `peak_bytes`: what each training says to have held of a GPU's memory.
    """

    seconds_per_epoch: float = 0.0
    scramble: bool = False
    crash_on: int | None = None
    hang_on: int | None = None
    fail_on: int | None = None
    memory_on: int | None = None
    memory_times: int = 0
    peak_bytes: int | None = None
    break_on: int | None = None

    def seconds(self, candidate: int) -> float:
        """Seconds for one epoch; scrambled, from a fifth to nine fifths of the mean."""
        if not self.scramble:
            return self.seconds_per_epoch
        return self.seconds_per_epoch * (200 + KeyedRng(candidate, "pace").below(1601)) / 1000


def train(assign: Assign, wanted: Callable[[], StopRequest], pace: Pace) -> Iterator[Up]:
    """One candidate's arithmetic, with the reports of a training."""
    breaking = assign.candidate == pace.break_on and assign.attempt == 1
    try:
        yield from _trained(assign, wanted, pace)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        yield Failed(assign.candidate, assign.attempt, "exception", str(error), text, 0.0, fatal=breaking)
        if breaking:
            raise


def _trained(assign: Assign, wanted: Callable[[], StopRequest], pace: Pace) -> Iterator[Up]:
    candidate, attempt = assign.candidate, assign.attempt
    started = time.monotonic()
    architecture = Architecture.from_code(assign.code)
    epochs = int(assign.training["epochs"])
    yield Phase(candidate, attempt, "training")
    rows: list[EpochDone] = []
    resumed = checkpoint.resume(assign, lambda content: _restore(assign, content, rows))
    if resumed is not None:
        yield resumed
    yield from rows
    while len(rows) < epochs:
        epoch = len(rows)
        if epoch == 1:
            _go_wrong(candidate, attempt == 1, pace)
            if candidate == pace.memory_on and attempt <= pace.memory_times:
                yield Failed(candidate, attempt, "out_of_memory", "no such memory", "", time.monotonic() - started)
                return
        until = time.monotonic() + pace.seconds(candidate)
        while True:
            wish = wanted()
            if wish is StopRequest.RELEASE and epoch > 0:
                yield from _save(assign, rows, wanted)
            if wish >= StopRequest.RELEASE:
                yield Released(candidate, attempt, time.monotonic() - started)
                return
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, SLICE_SECONDS))
        rows.append(_epoch(assign, architecture, epoch, epochs, pace.seconds(candidate)))
        yield rows[-1]
        yield Progress(candidate, attempt, epoch, BATCHES, BATCHES, time.monotonic() - started)
        yield from _save(assign, rows, wanted)
    # A final model's figures are of other images, and nobody has seen them before.
    accuracy = _accuracy(assign, architecture, epochs if assign.final else epochs - 1, epochs)
    yield Finished(
        *(candidate, attempt, accuracy, _loss(accuracy)),
        *("arithmetic", time.monotonic() - started),
        peak_bytes=pace.peak_bytes,
    )


class Doom:
    """Kills this process just before the n-th write of one candidate's first attempt: a report or a file's."""

    def __init__(self, candidate: int, at: int) -> None:
        self._candidate, self._left = candidate, at
        self._folder: str | None = None
        sys.addaudithook(self._audit)

    def train(self, assign: Assign, reports: Iterator[Up]) -> Iterator[Up]:
        """The same reports, as long as this process lives."""
        doomed = (assign.candidate, assign.attempt) == (self._candidate, 1)
        self._folder = assign.checkpoint_folder.rstrip("/") if doomed else None
        for report in reports:
            if doomed:
                self._write()
            yield report
        self._folder = None

    def _audit(self, kind: str, arguments: tuple[object, ...]) -> None:
        # Opening is how a file or the folder's fsync begins; a rename has what was written, and synced, behind it.
        if self._folder and kind in ("open", "os.rename") and str(arguments[0]).startswith(self._folder):
            self._write()

    def _write(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _go_wrong(candidate: int, first: bool, pace: Pace) -> None:
    if candidate == pace.crash_on and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if candidate == pace.hang_on and first:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.run(["sleep", "600"], start_new_session=True, check=False)
    if candidate == pace.fail_on or (first and candidate == pace.break_on):
        raise RuntimeError("this candidate always fails")


def _epoch(assign: Assign, architecture: Architecture, epoch: int, epochs: int, seconds: float) -> EpochDone:
    accuracy = _accuracy(assign, architecture, epoch, epochs)
    return EpochDone(
        *(assign.candidate, assign.attempt, epoch),
        train_loss=round(1.9 - 1.8 * accuracy, 6),
        train_accuracy=round(accuracy + 0.02, 6),
        val_loss=None if assign.final else _loss(accuracy),
        val_accuracy=None if assign.final else accuracy,
        learning_rate=round(float(assign.training["learning_rate"]) * (1 - epoch / epochs), 9),
        seconds=seconds,
        ended_at=time.time(),
    )


def _accuracy(assign: Assign, architecture: Architecture, epoch: int, epochs: int) -> float:
    """It rises with capacity and with the epoch, with some noise; exact to 6 digits."""
    network = int(digest(architecture)[:15], 16)
    noise = KeyedRng(assign.seed, "arithmetic", network, epoch).below(10_000) / 10_000
    reached = min(1.0, (epoch + 1) / epochs)
    return round((0.4 + 0.5 * _capacity(architecture)) * (0.6 + 0.4 * reached) + 0.04 * noise, 6)


def _loss(accuracy: float) -> float:
    return round(2 - 1.9 * accuracy, 6)


def _capacity(architecture: Architecture) -> float:
    """From 0 to 1, larger for deeper, wider blocks of costlier operations, larger kernels and skips."""
    total = sum(
        OPS.index(block.op) / 2
        + KERNELS.index(block.kernel) / 2
        + (block.depth - 1) / 3
        + (block.width - 0.5) / 1.5
        + block.skip
        for block in architecture.blocks
    )
    return total / (5 * len(architecture.blocks))


def _save(assign: Assign, rows: list[EpochDone], wanted: Callable[[], StopRequest]) -> Iterator[Up]:
    content = json.dumps({"code": assign.code, "seed": assign.seed, "rows": [asdict(row) for row in rows]})
    return checkpoint.save_patiently(assign, len(rows), 0, content.encode(), wanted)


def _restore(assign: Assign, content: bytes, rows: list[EpochDone]) -> None:
    kept = json.loads(content)
    if (kept["code"], kept["seed"]) != (assign.code, assign.seed):
        raise ValueError("it is of another candidate")
    rows[:] = [replace(EpochDone(**row), attempt=assign.attempt) for row in kept["rows"]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eatnas_training.simulated_worker", description=__doc__)
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    parser.add_argument("--device", default="cpu", help="said in Ready; nothing runs on it")
    parser.add_argument("--threads", type=int, help="taken and ignored, as the real worker's twin")
    parser.add_argument("--seconds-per-epoch", type=float, default=0.0)
    parser.add_argument("--scramble", action="store_true")
    parser.add_argument("--crash-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--hang-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--fail-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--break-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--memory-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--memory-times", type=int, default=1)
    parser.add_argument("--peak-bytes", type=int)
    parser.add_argument("--unfit", metavar="REASON", help="cannot train, for this reason")
    parser.add_argument("--die-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--die-at", type=int, default=1, metavar="WRITE")
    return parser.parse_args()


def main() -> None:
    """Talk to the supervisor on the two descriptors until told to leave."""
    asked = _arguments()
    pace = Pace(asked.seconds_per_epoch, asked.scramble, asked.crash_on, asked.hang_on, asked.fail_on)
    pace = replace(pace, memory_on=asked.memory_on, memory_times=asked.memory_times)
    pace = replace(pace, peak_bytes=asked.peak_bytes, break_on=asked.break_on)
    conversation = WorkerProtocol(asked.in_fd, asked.out_fd)
    leave_politely(conversation)
    if asked.unfit is not None:
        conversation.refuse(asked.unfit)
        sys.exit(1)
    # It computes on no device; it says of itself what it was told.
    uuid = os.environ.get("CUDA_VISIBLE_DEVICES") or None
    hello = Ready(os.getpid(), {"python": platform.python_version()}, asked.device, "arithmetic", uuid)
    doom = None if asked.die_on is None else Doom(asked.die_on, asked.die_at)

    def trainer(assign: Assign, wanted: Callable[[], StopRequest]) -> Iterator[Up]:
        reports = train(assign, wanted, pace)
        return reports if doom is None else doom.train(assign, reports)

    conversation.run(hello, trainer)


if __name__ == "__main__":
    main()
