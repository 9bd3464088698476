"""`python -m eatnas_training.worker`: a process that trains one candidate after another."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import torch

from eatnas_db.domain.arithmetic import is_portable, recorded_settings
from eatnas_db.domain.states import FailureKind
from eatnas_db.garbage_collection import skip_last_collection
from eatnas_db.text_encoding import let_output_escape
from eatnas_protocol.messages import Assign, Failed, Finished, Phase, Progress, Ready, Report
from eatnas_training import loop, selftest
from eatnas_training.lane_state import LaneState
from eatnas_training.lanes import train_by_turns
from eatnas_training.numerics import require_avx2, resolve_precision
from eatnas_training.programs import training as programs_training
from eatnas_training.worker_protocol import StopRequest, WorkerProtocol, handle_signals

MARKER_BYTES: Final = 256 << 20
"""The size of the marker in bytes, large enough to distinguish it from memory that the driver itself uses."""


def versions(device: str) -> dict[str, str]:
    """Return the versions of all packages that can change the bits of a score."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("numpy", "pillow", "eatnas-db"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if device != "cpu":
        versions["cuda"] = str(torch.version.cuda)
        versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return versions


class MemoryMarker:
    """A block of GPU memory by which the supervisor recognizes the GPU of this worker. On the CPU it is empty."""

    def __init__(self, device: str) -> None:
        self._block: torch.Tensor | None = None
        self.gpu_uuid: str | None = None
        if device != "cpu":
            self._block = torch.empty(MARKER_BYTES, dtype=torch.uint8, device=device)
            self.gpu_uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) or None

    @property
    def bytes(self) -> int:
        """The size of the block in bytes; 0 after `free`."""
        return 0 if self._block is None else self._block.numel()

    def free(self) -> None:
        """Return the memory to the device."""
        if self._block is not None:
            self._block = None
            torch.cuda.empty_cache()


def _trainer_of(assign: Assign) -> Callable[..., Iterator[Report | None]]:
    return programs_training.train if assign.training.get("program") else loop.train


def train(
    assign: Assign,
    stop_request: Callable[[], StopRequest],
    device: str,
    *,
    count_trainings: Callable[[], int] | None = None,
) -> Iterator[Report | None]:
    """Train one candidate. On a GPU, also measure the peak memory use, and free the memory afterwards.

    If this process has several lanes, `count_trainings` returns the number of its current trainings. With lanes, the
    peak is not measured, because it cannot be attributed to one training.
    """
    if device == "cpu":
        yield from _trainer_of(assign)(assign, stop_request, device=device)
        return
    if count_trainings is not None:
        yield from train_beside(_trainer_of(assign)(assign, stop_request, device=device), count_trainings)
        with contextlib.suppress(RuntimeError):
            torch.cuda.current_stream(device).synchronize()  # ends all use of the memory before another lane gets it
            torch.cuda.empty_cache()
        return
    images_bytes = 0
    try:
        for report in _trainer_of(assign)(assign, stop_request, device=device):
            if isinstance(report, Phase) and report.phase == "building":
                # Measure from here, because the previous candidate's images may be in memory until the new images are
                # loaded.
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                images_bytes = torch.cuda.memory_allocated()
            if isinstance(report, Finished):
                yield replace(report, peak_bytes=torch.cuda.max_memory_reserved(), images_bytes=images_bytes)
            else:
                yield report
    finally:
        # Free memory that another process may need before this worker's next assignment. After a CUDA error, this call
        # fails too.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def train_beside(reports: Iterator[Report | None], count_trainings: Callable[[], int]) -> Iterator[Report | None]:
    """Yield the reports of one of several trainings in this process, each with an equal share of the process's memory.

    The shares add up to the whole, because the supervisor attributes any other memory to another user's process. CUDA
    reports an error at the next call of any training, so with several trainings the error may belong to any of them.
    """
    for report in reports:
        if isinstance(report, Failed) and report.fatal and count_trainings() > 1:
            message = f"another training in the same process may be the cause: {report.message}"
            yield replace(report, kind=FailureKind.LOST, message=message)
        elif isinstance(report, Progress):
            yield replace(report, memory_bytes=report.memory_bytes // max(1, count_trainings()))
        else:
            yield report


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eatnas_training.worker", description=__doc__)
    parser.add_argument(
        "--in-fd",
        type=int,
        action="append",
        required=True,
        help="file descriptor to read commands from; repeat it for each lane",
    )
    parser.add_argument(
        "--out-fd",
        type=int,
        action="append",
        required=True,
        help="file descriptor to write reports to; repeat it for each lane",
    )
    parser.add_argument(
        "--turn-fd", type=int, help="descriptor of the file with the number of the lane whose turn it is"
    )
    parser.add_argument("--device", default="cpu", help="device to train on: cpu (the default) or cuda:N")
    return parser.parse_args()


def main() -> None:
    """Train the assigned candidates until the supervisor sends `Exit` or closes its pipe."""
    let_output_escape()
    skip_last_collection()
    options = _parse_arguments()
    device: str = options.device
    lanes = [WorkerProtocol(*pipes) for pipes in zip(options.in_fd, options.out_fd, strict=True)]
    handle_signals(*lanes)
    torch.set_num_threads(1)  # until the recipe of an assignment sets the number
    try:
        if is_portable(os.environ):
            require_avx2()
        selftest.train_all_operations(device)
        marker = MemoryMarker(device)
        ready = Ready(
            pid=os.getpid(),
            versions=versions(device),
            device=device,
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            gpu_uuid=marker.gpu_uuid,
            marker_bytes=marker.bytes,
            half_precision=resolve_precision(device, "auto") == "bfloat16",
            settings=recorded_settings(os.environ),
        )
    except Exception as error:
        for lane in lanes:
            lane.send_unavailable(selftest.describe_failure(device, error))
        raise

    count_trainings = None if options.turn_fd is None else lambda: sum(lane.trains for lane in lanes)

    def trainer(assign: Assign, stop_request: Callable[[], StopRequest]) -> Iterator[Report | None]:
        marker.free()
        yield from train(assign, stop_request, device, count_trainings=count_trainings)

    if options.turn_fd is None:
        lanes[0].run(ready, trainer)
    elif not train_by_turns(lanes, ready, trainer, options.turn_fd, LaneState(device, len(lanes))):
        sys.exit(1)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(0)  # A user's own training function has left threads, for which the interpreter would wait.


if __name__ == "__main__":
    main()
