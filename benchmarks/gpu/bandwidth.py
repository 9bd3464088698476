"""Count the bytes that a training step must move, and measure the memory bandwidth that limits its speed."""

from __future__ import annotations

import math
import time

import torch
from networks import TASKS, make_model
from timing import synchronize
from torch import Tensor, nn

MOMENTUM_BYTES = 5 * 4
"""The bytes per weight of an optimizer step: it reads weight, gradient and momentum; it writes weight and momentum."""


def count_step_bytes(code: str, space: str, batch_size: int, precision: str) -> int:
    """Return the bytes that a step must move if each kernel reads its inputs once and writes its outputs once.

    In the forward pass, a layer reads its input and writes its output; batch norm reads its input twice. In the
    backward pass, a convolution reads the gradient of its output twice and its input once, and writes the gradient of
    its input; batch norm reads its input and the gradient of its output twice and writes the gradient of its input.
    Weights and their gradients are counted with the optimizer. ReLU counts as fused with batch norm, so separate
    kernels cannot reach the bound.
    """
    task, value_bytes = TASKS[space], 2 if precision == "bfloat16" else 4
    model = make_model(code, space, "meta")
    values = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        read, written = inputs[0].numel(), output.numel()
        if isinstance(module, nn.BatchNorm2d):
            values += (2 * read + written) + (2 * written + 2 * read + read)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            values += (read + written) + (2 * written + read + read)

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.empty(batch_size, task.channels, task.resolution, task.resolution, device="meta"))
    weights = sum(parameter.numel() for parameter in model.parameters())
    return values * value_bytes + weights * (MOMENTUM_BYTES + 4)


def measure_bandwidth(device: str, bytes_copied: int) -> float:
    """Return the bytes per second that the fastest of several large copies on the device reads and writes."""
    source = torch.zeros(bytes_copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = math.inf
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(4):
            target.copy_(source)
        synchronize(device)
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * bytes_copied / best
