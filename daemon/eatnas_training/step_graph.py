"""Compute training steps from tables on the device.

On a GPU, a step is captured once as a CUDA graph and then replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import torch
from torch import Tensor

from eatnas_training.error_messages import first_line
from eatnas_training.step_tables import StepTables

WARM_UP_STEPS: Final = 3
"""The number of steps before the capture. They create the momenta, load the kernels and allocate the workspaces."""
MIN_STEPS: Final = 32
"""A training with fewer steps is not captured, because the capture would take longer than it saves."""


class StepGraph:
    """Computes a step repeatedly. The first steps are calls; on a GPU, later steps replay the captured graph.

    The step must read all inputs from tensors at fixed addresses, and must not wait for the GPU. If the step cannot be
    captured, it is called each time; the results are bit-identical.
    """

    def __init__(self, device: str) -> None:
        self._stream = _side_stream(device) if torch.device(device).type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm_ups_left = WARM_UP_STEPS

    @property
    def is_captured(self) -> bool:
        """Whether the next step is a replay."""
        return self._graph is not None

    def run(self, step: Callable[[], None], optimizer: torch.optim.Optimizer) -> None:
        """Compute one step. The graph keeps no reference to `step`."""
        if self._graph is None and self._stream is not None and not self._warm_ups_left:
            self._capture(step, optimizer, self._stream)
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is not None:
            self._warm_up(step, self._stream)
        else:
            step()

    def _warm_up(self, step: Callable[[], None], stream: torch.cuda.Stream) -> None:
        """Compute the step on the same side stream as the capture."""
        self._warm_ups_left -= 1
        if self._warm_ups_left:
            with _on_stream(stream):
                step()
            return
        with _on_stream(stream), _waits() as waits:
            step()
        if waits:  # a capture would fail and leak memory
            print("the training step waits for the GPU, so it is not captured as a CUDA graph", flush=True)
            self._stream = None

    def _capture(self, step: Callable[[], None], optimizer: torch.optim.Optimizer, stream: torch.cuda.Stream) -> None:
        """Capture the step, without computing it. If the capture fails, all later steps are ordinary calls."""
        optimizer.zero_grad(set_to_none=True)  # the graph allocates its own gradients
        graph = torch.cuda.CUDAGraph()
        try:
            with _capturable(optimizer), torch.cuda.graph(graph, stream=stream):
                step()
        except RuntimeError as error:
            print(f"the training step cannot be captured as a CUDA graph: {first_line(error)}", flush=True)
            self._stream = None
        else:
            self._graph = graph


class TableSteps:
    """Computes training steps with the inputs in `tables`. The steps of a short training are not captured."""

    def __init__(self, tables: StepTables, device: str) -> None:
        self._tables, self._captures = tables, tables.on_gpu and tables.steps >= MIN_STEPS
        self.graph = StepGraph(device if self._captures else "cpu")

    @property
    def warm_up_steps(self) -> int:
        """The number of slower first steps."""
        return WARM_UP_STEPS + 1 if self._captures else 1

    def run(
        self,
        epoch: int,
        batch: int,
        train: Callable[[Tensor, Tensor, Tensor], None],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Train a batch with `train`, which takes images, labels and the learning rate."""
        self._tables.seek(epoch, batch)
        self.graph.run(lambda: train(*self._tables.read()), optimizer)


def _side_stream(device: str) -> torch.cuda.Stream:
    """Return the stream of all captures that are replayed on the current stream.

    Each stream has workspaces of its own, which captured steps of two lanes must not share.
    """
    return _stream_beside(device, torch.cuda.current_stream(device).cuda_stream)


@cache
def _stream_beside(device: str, _stream: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _on_stream(stream: torch.cuda.Stream) -> Iterator[None]:
    """Compute on `stream` after all work of the current stream. At the end, the current stream waits for `stream`."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@contextmanager
def _waits() -> Iterator[list[str]]:
    """Collect the operations that wait for the GPU."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            messages = [str(warning.message) for warning in caught]
            found += [message for message in messages if "called a synchronizing CUDA operation" in message]


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Set the flag `capturable` of an optimizer in this context.

    Fused optimizers compute the same with and without the flag.
    """
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False
