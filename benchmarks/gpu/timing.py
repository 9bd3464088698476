"""Measure the seconds of calls on a device, without and with a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

CAPTURED_CALLS = 5
"""The number of calls in a graph, so large that the launch of the graph counts little."""


def synchronize(device: str) -> None:
    """Wait until a device has nothing left to do."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], None], device: str, seconds: float) -> float:
    """Return the seconds of a call: the median of three rounds, after two calls as a warm-up."""
    for _ in range(2):
        call()
    synchronize(device)
    rounds = []
    for _ in range(3):
        calls, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds / 3 or calls < 3:
            call()
            calls += 1
            if calls % 64 == 0:
                synchronize(device)  # limits the queue, because the time to empty the queue is measured, too
        synchronize(device)
        rounds.append((time.perf_counter() - started) / calls)
    return statistics.median(rounds)


def captured_seconds_of(call: Callable[[], None], device: str, seconds: float) -> float:
    """Return the seconds of a call that a CUDA graph replays, so that Python's time does not count.

    On a CPU, the call is measured without a graph. The call must not accumulate gradients in leaves.
    """
    if device == "cpu":
        return seconds_of(call, device, seconds)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CAPTURED_CALLS):
            call()
    return seconds_of(graph.replay, device, seconds) / CAPTURED_CALLS
