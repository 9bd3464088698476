"""A worker that speaks the whole protocol and trains nothing: `python simulated_worker.py --in-fd N --out-fd N`.

Its metrics are a pure function of (seed, architecture, epoch). Tests and benchmarks of crashes, of the protocol and of
scale use this worker. It does not import torch, so it starts in a fraction of a second.
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
from typing import Any, Final

from eatnas_db.domain.architecture import KERNELS, OPS, Architecture, architecture_digest
from eatnas_db.domain.arithmetic import recorded_settings
from eatnas_db.domain.rng import KeyedRng
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished, Phase, Progress, Ready, Released, Report
from eatnas_training import checkpoint
from eatnas_training.lanes import train_by_turns
from eatnas_training.worker_protocol import StopRequest, WorkerProtocol, handle_signals

SIMULATED_WORKER: Final = (__file__,)
"""The arguments of a Python interpreter that starts this worker. Options may follow."""
DATA_DIGEST: Final = "arithmetic"
SLICE_SECONDS: Final = 0.02
BATCHES: Final = 1


@dataclass(frozen=True, slots=True)
class Behavior:
    """The duration of an epoch, and the candidates that fail in their second epoch.

    Fields that end with `_on` contain the id of a candidate. `crash_on`: kill the worker with SIGKILL at the first
    attempt. `segfault_on`: kill the worker with SIGSEGV at the first attempt. `hang_on`: block, ignore SIGTERM and keep
    a child process at the first attempt. `fail_on`: raise at every attempt. `fatal_on`: raise at the first attempt, and
    again while the worker cleans up, as CUDA does after an error. `out_of_memory_on`: run out of memory at the first
    `out_of_memory_attempts` attempts. `peak_bytes`: the GPU memory that each training reports. `needs_file`: a file
    without which the data cannot be read. `diverge`: every training diverges.
    """

    seconds_per_epoch: float
    scramble: bool
    crash_on: int | None
    segfault_on: int | None
    hang_on: int | None
    fail_on: int | None
    fatal_on: int | None
    out_of_memory_on: int | None
    out_of_memory_attempts: int
    peak_bytes: int | None
    needs_file: str | None
    diverge: bool

    def seconds(self, candidate: int) -> float:
        """Return the seconds of one epoch.

        With `scramble`, the seconds vary from 0.2 to 1.8 times `seconds_per_epoch`.
        """
        if not self.scramble:
            return self.seconds_per_epoch
        return self.seconds_per_epoch * (200 + KeyedRng(candidate, "pace").randbelow(1601)) / 1000


def train(assign: Assign, wanted: Callable[[], StopRequest], behavior: Behavior) -> Iterator[Report | None]:
    """Yield the reports of one simulated training."""
    fatal = assign.candidate == behavior.fatal_on and assign.attempt == 1
    try:
        yield from _train(assign, wanted, behavior)
    except Exception as error:
        yield Failed(
            candidate=assign.candidate,
            attempt=assign.attempt,
            kind="exception",
            message=str(error),
            traceback="".join(traceback.format_exception(error)),
            device_seconds=0.0,
            fatal=fatal,
        )
        if fatal:
            raise


def _train(assign: Assign, wanted: Callable[[], StopRequest], behavior: Behavior) -> Iterator[Report | None]:
    candidate, attempt = assign.candidate, assign.attempt
    started = time.monotonic()
    architecture = Architecture.from_code(assign.code)
    epochs = int(assign.training["epochs"])
    end = assign.stop_after or epochs
    if behavior.needs_file is not None and not os.path.exists(behavior.needs_file):  # noqa: PTH110
        yield Failed(candidate, attempt, "unreadable_data", f"no file {behavior.needs_file}", "", 0.0)
        return
    if behavior.diverge:
        yield Failed(candidate, attempt, "diverged", "the loss is nan in epoch 0", "", 0.0)
        return
    yield Phase(candidate, attempt, "training")
    rows: list[EpochDone] = []
    resumed = checkpoint.resume(assign, lambda content: _restore(assign, content, rows))
    if resumed is not None:
        yield resumed
    yield from rows
    while len(rows) < end:
        epoch = len(rows)
        if epoch == 1:
            _fail(candidate, attempt, behavior)
            if candidate == behavior.out_of_memory_on and attempt <= behavior.out_of_memory_attempts:
                yield Failed(candidate, attempt, "out_of_memory", "no such memory", "", time.monotonic() - started)
                return
        deadline = time.monotonic() + behavior.seconds(candidate)
        while True:
            request = wanted()
            if request is StopRequest.RELEASE and epoch > 0:
                yield from _save(assign, rows, wanted)
            if request >= StopRequest.RELEASE:
                yield Released(candidate, attempt, time.monotonic() - started)
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            time.sleep(min(remaining, SLICE_SECONDS))
            yield None
        rows.append(_epoch(assign, architecture, epoch, epochs, behavior.seconds(candidate)))
        yield rows[-1]
        yield Progress(candidate, attempt, epoch, BATCHES, BATCHES, time.monotonic() - started)
        yield from _save(assign, rows, wanted)
    # A final model is tested on the test part, so its score differs from the metrics of its epochs.
    accuracy = _accuracy(assign, architecture, epochs if assign.final_model else end - 1, epochs)
    yield Finished(
        candidate=candidate,
        attempt=attempt,
        accuracy=accuracy,
        loss=_loss(accuracy),
        data_digest=DATA_DIGEST,
        device_seconds=time.monotonic() - started,
        peak_bytes=behavior.peak_bytes,
        **_latency(assign, architecture),
    )


class KillAtWrite:
    """Kills this process just before the n-th write of a report or a file in a candidate's first attempt."""

    def __init__(self, candidate: int, write: int) -> None:
        self._candidate, self._remaining = candidate, write
        self._folder: str | None = None
        sys.addaudithook(self._audit)

    def reports(self, assign: Assign, reports: Iterator[Report | None]) -> Iterator[Report | None]:
        """Yield the given reports until this process is killed."""
        active = (assign.candidate, assign.attempt) == (self._candidate, 1)
        self._folder = assign.checkpoint_folder.rstrip("/") if active else None
        for report in reports:
            if active and report is not None:
                self._count_write()
            yield report
        self._folder = None

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        # Count the event `open`, with which the writing of a file and the syncing of a folder begin, and the rename
        # that follows the fsync of a file.
        if self._folder and event in ("open", "os.rename") and str(arguments[0]).startswith(self._folder):
            self._count_write()

    def _count_write(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _fail(candidate: int, attempt: int, behavior: Behavior) -> None:
    first = attempt == 1
    if candidate == behavior.crash_on and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if candidate == behavior.segfault_on and first:
        os.kill(os.getpid(), signal.SIGSEGV)
    if candidate == behavior.hang_on and first:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.run(["sleep", "600"], start_new_session=True, check=False)
    if candidate == behavior.fail_on or (candidate == behavior.fatal_on and first):
        raise RuntimeError("this candidate always fails")


def _epoch(assign: Assign, architecture: Architecture, epoch: int, epochs: int, seconds: float) -> EpochDone:
    accuracy = _accuracy(assign, architecture, epoch, epochs)
    return EpochDone(
        candidate=assign.candidate,
        attempt=assign.attempt,
        epoch=epoch,
        train_loss=round(1.9 - 1.8 * accuracy, 6),
        train_accuracy=round(accuracy + 0.02, 6),
        val_loss=None if assign.final_model else _loss(accuracy),
        val_accuracy=None if assign.final_model else accuracy,
        learning_rate=round(float(assign.training["learning_rate"]) * (1 - epoch / epochs), 9),
        seconds=seconds,
        ended_at=time.time(),
    )


def _accuracy(assign: Assign, architecture: Architecture, epoch: int, epochs: int) -> float:
    """Return an accuracy that rises with the capacity and the epoch, has some noise, and is rounded to 6 digits."""
    network = int(architecture_digest(architecture)[:15], 16)
    noise = KeyedRng(assign.seed, "arithmetic", network, epoch).randbelow(10_000) / 10_000
    progress = min(1.0, (epoch + 1) / epochs)
    return round((0.4 + 0.5 * _capacity(architecture)) * (0.6 + 0.4 * progress) + 0.04 * noise, 6)


def _loss(accuracy: float) -> float:
    return round(2 - 1.9 * accuracy, 6)


def _capacity(architecture: Architecture) -> float:
    """Return a number from 0 to 1 that grows with depths, widths, costs of operations, kernels and skips."""
    total = sum(
        OPS.index(block.op) / 2
        + KERNELS.index(block.kernel) / 2
        + (block.depth - 1) / 3
        + (block.width - 0.5) / 1.5
        + block.skip
        for block in architecture.blocks
    )
    return total / (5 * len(architecture.blocks))


def _latency(assign: Assign, architecture: Architecture) -> dict[str, Any]:
    """If the assignment requests a measurement, return the fields of a latency that rises with the capacity."""
    if assign.latency is None:
        return {}
    median = round(1 + 10 * _capacity(architecture), 6)
    return {
        "latency_ms": median,
        "latency_low": 0.9 * median,
        "latency_high": 1.1 * median,
        "latency_device": "arithmetic",
        "latency_quiet": True,
    }


def _save(assign: Assign, rows: list[EpochDone], wanted: Callable[[], StopRequest]) -> Iterator[Report]:
    content = json.dumps({"code": assign.code, "seed": assign.seed, "rows": [asdict(row) for row in rows]})
    return checkpoint.save_with_retries(assign, len(rows), 0, content.encode(), wanted)


def _restore(assign: Assign, content: bytes, rows: list[EpochDone]) -> None:
    saved = json.loads(content)
    if (saved["code"], saved["seed"]) != (assign.code, assign.seed):
        raise ValueError("it is of another candidate")
    rows[:] = [replace(EpochDone(**row), attempt=assign.attempt) for row in saved["rows"]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulated_worker.py", description=__doc__)
    parser.add_argument("--in-fd", type=int, action="append", required=True)
    parser.add_argument("--out-fd", type=int, action="append", required=True)
    parser.add_argument("--turn-fd", type=int)
    parser.add_argument("--device", default="cpu", help="device to report in Ready; nothing runs on it")
    parser.add_argument("--seconds-per-epoch", type=float, default=0.0)
    parser.add_argument(
        "--scramble", action="store_true", help="vary the duration of an epoch from candidate to candidate"
    )
    parser.add_argument("--crash-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--segfault-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--hang-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--fail-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--fatal-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--out-of-memory-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--out-of-memory-attempts", type=int, default=1, metavar="N")
    parser.add_argument("--peak-bytes", type=int)
    parser.add_argument("--diverge", action="store_true")
    parser.add_argument("--needs-file", metavar="PATH", help="fail with unreadable_data while this file is missing")
    parser.add_argument("--unavailable", metavar="REASON", help="report that this worker cannot train, and exit")
    parser.add_argument("--kill-on", type=int, metavar="CANDIDATE")
    parser.add_argument("--kill-at-write", type=int, default=1, metavar="N")
    return parser.parse_args()


def main() -> None:
    """Train the assigned candidates until the supervisor sends `Exit` or closes its end of the pipe."""
    options = _options()
    behavior = Behavior(**{field: getattr(options, field) for field in Behavior.__dataclass_fields__})
    lanes = [WorkerProtocol(*pipes) for pipes in zip(options.in_fd, options.out_fd, strict=True)]
    handle_signals(*lanes)
    if options.unavailable is not None:
        for lane in lanes:
            lane.send_unavailable(options.unavailable)
        sys.exit(1)
    ready = Ready(
        pid=os.getpid(),
        versions={"python": platform.python_version()},
        device=options.device,
        cpu_capability="arithmetic",
        settings=recorded_settings(os.environ),
        gpu_uuid=os.environ.get("CUDA_VISIBLE_DEVICES") or None,
    )
    killer = None if options.kill_on is None else KillAtWrite(options.kill_on, options.kill_at_write)

    def trainer(assign: Assign, wanted: Callable[[], StopRequest]) -> Iterator[Report | None]:
        reports = train(assign, wanted, behavior)
        return reports if killer is None else killer.reports(assign, reports)

    if options.turn_fd is None:
        lanes[0].run(ready, trainer)
    elif not train_by_turns(lanes, ready, trainer, options.turn_fd):
        sys.exit(1)


if __name__ == "__main__":
    main()
