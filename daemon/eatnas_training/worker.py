"""`python -m eatnas_training.worker`: a warm process that trains one candidate after another."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import torch

from eatnas_protocol.messages import Assign, Finished, Phase, Ready, Up
from eatnas_training import loop, selftest
from eatnas_training.worker_protocol import StopRequest, WorkerProtocol, leave_politely

BLOCK_BYTES: Final = 256 << 20
"""Enough to stand out from what a driver takes for itself."""


def versions(device: str) -> dict[str, str]:
    """The versions that a score's bits depend on."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("numpy", "pillow", "eatnas-db"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if device != "cpu":
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found


class Block:
    """Memory on a GPU that shows where this worker is, until it is needed."""

    def __init__(self, device: str) -> None:
        self._held: torch.Tensor | None = None
        self.uuid: str | None = None
        if device != "cpu":
            self._held = torch.empty(BLOCK_BYTES, dtype=torch.uint8, device=device)
            self.uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) or None

    @property
    def bytes(self) -> int:
        """How much it is."""
        return 0 if self._held is None else self._held.numel()

    def free(self) -> None:
        """Give it back to the device."""
        if self._held is not None:
            self._held = None
            torch.cuda.empty_cache()


def main() -> None:
    """Talk to the supervisor on the two descriptors until told to leave."""
    parser = argparse.ArgumentParser(prog="eatnas_training.worker", description=__doc__)
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    asked = parser.parse_args()
    conversation = WorkerProtocol(asked.in_fd, asked.out_fd)
    leave_politely(conversation)
    torch.set_num_threads(1)  # until an assignment's recipe sets its own
    try:
        selftest.warm_up(asked.device)
        block = Block(asked.device)
        hello = Ready(
            *(os.getpid(), versions(asked.device), asked.device, torch.backends.cpu.get_cpu_capability()),
            *(block.uuid, block.bytes),
        )
    except Exception as error:
        conversation.refuse(selftest.why_not(asked.device, error))
        raise

    def trainer(assign: Assign, wanted: Callable[[], StopRequest]) -> Iterator[Up]:
        block.free()
        if asked.device == "cpu":
            yield from loop.train(assign, wanted, device=asked.device)
            return
        images = 0
        try:
            for report in loop.train(assign, wanted, device=asked.device):
                if isinstance(report, Phase) and report.phase == "building":
                    # From here on: before, the images of the candidate before may have lain there, too.
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    images = torch.cuda.memory_allocated()
                if isinstance(report, Finished):
                    yield replace(report, peak_bytes=torch.cuda.max_memory_reserved(), images_bytes=images)
                else:
                    yield report
        finally:
            # What the next one needs may be another's meanwhile. After an error of CUDA's this is one more of them.
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()

    conversation.run(hello, trainer)


if __name__ == "__main__":
    main()
