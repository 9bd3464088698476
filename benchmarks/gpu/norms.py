"""Compare the fused batch norm and ReLU with those of PyTorch: errors, bits and times."""

from __future__ import annotations

import importlib.util
import os
import statistics
from collections import Counter
from functools import partial
from typing import Any

import torch
from networks import CODES, TASKS, have_same_bits, make_images, make_model, make_runner, next_step, spaces_of, state_of
from recording import Context
from timing import captured_seconds_of, seconds_of
from torch import nn

from eatnas_training.data.resident import ResidentPart
from eatnas_training.numerics import use_deterministic_arithmetic
from eatnas_training.steps import StepRunner

DTYPES = (torch.bfloat16, torch.float32)
SHAPES = ((64, 13, 14, 14), (64, 144, 14, 14), (512, 1, 28, 28), (8, 960, 4, 4), (512, 24, 28, 28))
"""The shapes of images for which the results are compared with those of float64."""
TOLERANCES = {torch.bfloat16: 1e-2, torch.float32: 1e-4}
BATCHES = (64, 512)
BITS_STEPS = 8
PAYS = 1.05
"""The least speed-up of a whole step that makes the fused kernels worth their code."""


def compare_norms(context: Context) -> None:
    """Compare results, then the times of a whole step of the median network and of each shape in it."""
    if importlib.util.find_spec("triton") is None:
        context.skip("Triton is not installed")
    if not context.gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    torch.set_num_threads(1)
    use_deterministic_arithmetic()
    from triton.runtime.errors import InterpreterError

    try:
        compare_all(context)
    except InterpreterError as error:
        # Only the CPU needs the interpreter, and the interpreter of Triton 3.6 does not work with NumPy 2.5.
        context.skip(f"the interpreter of Triton cannot run the kernels: {error}")


def compare_all(context: Context) -> None:
    """Compare the results, and then the times of each space and batch size."""
    compare_results(context)
    gains = []
    for space in spaces_of(gpu=context.gpu):
        images = make_images(space, context.device, 20_000 if context.gpu else 256)
        for batch_size in BATCHES if context.gpu else (4,):
            if context.seconds_left < 0:
                context.facts.set("stopped_early", True)
                break
            gain = compare_steps(context, space, images, batch_size)
            gains += [] if gain is None else [gain]
            compare_shapes(context, space, batch_size)
    if gains:
        middle = round(statistics.median(gains), 3)
        bar = "speed of a step with fused norms / without"
        context.facts.bar(bar, middle, f"at least {PAYS}", met=middle >= PAYS, must=False)


def compare_results(context: Context) -> None:
    """Compare the results of the fused kernels with those of float64, and with those of a second run."""
    worst, equal = dict.fromkeys(DTYPES, 0.0), True
    for shape in SHAPES if context.gpu else ((2, 13, 5, 5),):
        for dtype in DTYPES:
            draws = torch.Generator(context.device).manual_seed(1)
            images, gradient = (torch.randn(shape, device=context.device, generator=draws).to(dtype) for _ in range(2))
            runs = [results_of(make_pair(shape[1], context.device)[1], images, gradient) for _ in range(2)]
            expected = results_of(make_pair(shape[1], context.device)[0].double(), images.double(), gradient.double())
            equal = equal and have_same_bits(*runs)
            distances = [float((a - b).norm() / b.norm()) for a, b in zip(runs[0], expected, strict=True)]
            worst[dtype] = max(worst[dtype], *distances)
    for dtype, distance in worst.items():
        bar = f"relative error of {str(dtype)[6:]}"
        met = distance <= TOLERANCES[dtype]  # false for a NaN
        context.facts.bar(bar, f"{distance:.1e}", f"at most {TOLERANCES[dtype]}", met=met)
    context.facts.bar("bits of two runs", equal, "equal", met=equal)


def make_pair(channels: int, device: str) -> tuple[nn.Module, nn.Module]:
    """Return PyTorch's modules and the fused module, with equal random weights."""
    from fused_norm import FusedNormReLU

    norms = [nn.BatchNorm2d(channels, 2e-5, 0.1) for _ in range(2)]
    for norm in norms:
        draws = torch.Generator().manual_seed(channels)
        nn.init.uniform_(norm.weight, 0.5, 2, generator=draws)
        nn.init.uniform_(norm.bias, -1, 1, generator=draws)
    return nn.Sequential(norms[0], nn.ReLU(inplace=True)).to(device), FusedNormReLU.of(norms[1]).to(device)


def results_of(module: nn.Module, images: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Return output, gradients and statistics after a forward and a backward pass, in float64."""
    images = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    output = module(images)
    gradients = torch.autograd.grad(output, [images, *module.parameters()], gradient)
    statistics = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    return [tensor.detach().double() for tensor in (output, *gradients, *statistics)]


def norm_shapes(space: str) -> Counter[tuple[int, int]]:
    """Count the batch norms before a ReLU in the median network, by channels and side."""
    task, found = TASKS[space], Counter[tuple[int, int]]()
    model = make_model(CODES["median"], space, "meta")

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
        found[inputs[0].shape[1], inputs[0].shape[2]] += 1

    for parts in model.modules():
        if isinstance(parts, nn.Sequential):
            for part, following in zip(parts, list(parts)[1:], strict=False):
                if isinstance(part, nn.BatchNorm2d) and isinstance(following, nn.ReLU):
                    part.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.empty(2, task.channels, task.resolution, task.resolution, device="meta"))
    return found


def compare_shapes(context: Context, space: str, batch_size: int) -> None:
    """Time the forward and backward pass of each shape in a CUDA graph, in the precision of the training loop."""
    dtype, totals = torch.bfloat16 if context.gpu else torch.float32, [0.0, 0.0]
    for (channels, side), count in sorted(norm_shapes(space).items())[: None if context.gpu else 1]:
        if context.seconds_left < 0:
            context.facts.set("stopped_early", True)
            return
        times = time_pair(context, (batch_size, channels, side, side), dtype)
        totals = [total + count * time for total, time in zip(totals, times, strict=True)]
        row: dict[str, Any] = {"space": space, "batch": batch_size, "channels": channels, "side": side, "layers": count}
        row |= {"PyTorch us": round(times[0], 1), "fused us": round(times[1], 1)}
        context.facts.add("norms", {**row, "PyTorch / fused": round(times[0] / times[1], 2)})
    saved = {"PyTorch ms": round(totals[0] / 1000, 3), "fused ms": round(totals[1] / 1000, 3)}
    context.facts.add("norms of a step", {"space": space, "batch": batch_size, **saved})


def time_pair(context: Context, shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[float]:
    """Return the microseconds of a forward and backward pass of PyTorch's modules, and of the fused module."""
    draws = torch.Generator(context.device).manual_seed(1)
    images, gradient = (
        torch.randn(shape, device=context.device, generator=draws)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    images.requires_grad_()

    def compute(module: nn.Module) -> None:
        torch.autograd.grad(module(images), [images, *module.parameters()], gradient)

    modules = make_pair(shape[1], context.device)
    seconds = 0.03 if context.gpu else 0.001
    return [1e6 * captured_seconds_of(partial(compute, module), context.device, seconds) for module in modules]


def compare_steps(context: Context, space: str, images: ResidentPart, batch_size: int) -> float | None:
    """Train with fused norms twice and compare the bits. On a GPU, also time the step and return the speed-up."""
    network, steps = ("median", BITS_STEPS) if context.gpu else ("small", 1)  # the interpreter takes seconds for a step
    runners = []
    for _ in range(2):
        runner = make_runner(CODES[network], space, context.device, images, batch_size=batch_size)
        fuse_norms(runner)
        for _ in range(steps):
            next_step(runner)
        runners.append(runner)
    equal = have_same_bits(*(state_of(runner.state.model) for runner in runners))
    context.facts.bar(f"bits of fused steps in {space}, batch {batch_size}", equal, "equal twice", met=equal)
    if not context.gpu:
        return None
    usual = make_runner(CODES[network], space, context.device, images, batch_size=batch_size)
    for _ in range(steps):  # these steps include the capture
        next_step(usual)
    before, after = (
        1000 * seconds_of(partial(next_step, runner), context.device, 0.4) for runner in (usual, runners[0])
    )
    row = {"space": space, "batch": batch_size, "PyTorch ms": round(before, 3), "fused ms": round(after, 3)}
    context.facts.add("whole step", {**row, "PyTorch / fused": round(before / after, 3)})
    return before / after


def fuse_norms(runner: StepRunner) -> None:
    """Let a training use fused norms."""
    from fused_norm import fuse

    fuse(runner.state.model)
