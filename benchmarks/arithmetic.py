"""Compare the bits that each operation of a training computes under different limits of the instruction set.

    python benchmarks/arithmetic.py                                    # under limits that this processor can imitate
    python benchmarks/arithmetic.py --processors "qemu-x86_64 -cpu Haswell" "qemu-x86_64 -cpu EPYC"

The program prints a table: a row for each operation, and a column for each limit. A child process computes the digests
of a column. `native` sets no limit; `portable` sets the environment variables of `training.arithmetic: portable`. Each
other column changes one setting of a library. `--processors` adds columns for other processors, with both arithmetics.
Each value is a command that runs a program on another processor.

    python benchmarks/arithmetic.py --cost 7                           # the price of portable arithmetic

`--cost PAIRS` instead measures the processor time of a training step for a small, a middle and a large network of two
spaces. Each pair consists of a child process with native and a child process with portable arithmetic. The program
prints the medians over the pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from convolutions import Shape, all_shapes

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.arithmetic import PORTABLE_SETTINGS, worker_variables
from eatnas_db.domain.spec_recipe import TrainingRecipe

LIMITS: dict[str, dict[str, str]] = {
    "native": {},
    **{f"oneDNN {isa}": {"ONEDNN_MAX_CPU_ISA": isa} for isa in ("AVX512_CORE", "AVX2", "AVX", "SSE41")},
    **{f"torch {isa}": {"ATEN_CPU_CAPABILITY": isa} for isa in ("avx2", "default")},
    **{f"MKL {mode}": {"MKL_CBWR": mode} for mode in ("AVX2", "COMPATIBLE")},
    "fast math": dict.fromkeys(("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"), "ANY"),
    "portable": PORTABLE_SETTINGS,
}
COST_BLOCKS = {
    "small": "sep_k3_d1_w0.5",
    "middle": "mb3_k5_d2_w1.0_skip",
    "large": "mb6_k7_d2_w1.0_skip",
}
"""The block that each network of `--cost` repeats."""


def operations(every: int) -> Iterator[tuple[str, Callable[[], Iterable[object]]]]:
    """Yield the name of each operation and a function that computes its results."""
    import torch
    from torch.nn import functional

    from eatnas_training.network import Convolution

    def random(*size: int, seed: int = 1) -> torch.Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(seed))

    def channels_last(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(memory_format=torch.channels_last).requires_grad_()

    def convolution(shape: Shape, part: str) -> torch.Tensor | None:
        module = Convolution(shape.inputs, shape.outputs, shape.kernel, shape.stride, shape.groups)
        with torch.no_grad():
            module.weight.copy_(random(*module.weight.shape, seed=2))
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = channels_last(random(shape.batch, shape.inputs, shape.side, shape.side))
        output = module(images)
        if part != "forward":
            output.backward(random(*output.shape, seed=3).to(memory_format=torch.channels_last))
        return {"forward": output, "images": images.grad, "weight": module.weight.grad}[part]

    shapes = all_shapes()[::every]
    kinds = {
        "1x1 convolution": [shape for shape in shapes if shape.kernel == 1],
        "depthwise convolution": [shape for shape in shapes if shape.groups > 1],
        "stem": [shape for shape in shapes if shape.kernel > 1 and shape.groups == 1],
    }
    for kind, of_kind in kinds.items():
        for part in ("forward", "images", "weight"):
            name = f"{kind}, {part if part == 'forward' else f'gradient of {part}'}"
            yield name, lambda part=part, of_kind=of_kind: (convolution(shape, part) for shape in of_kind)  # type: ignore[misc]

    def batch_norm(*, training: bool) -> list[torch.Tensor | None]:
        results: list[torch.Tensor | None] = []
        for channels, side in ((3, 7), (16, 28), (40, 14), (240, 4)):
            images, weight = channels_last(random(32, channels, side, side)), random(channels).requires_grad_()
            mean, var = torch.zeros(channels), torch.ones(channels)
            output = functional.batch_norm(images, mean, var, weight, weight.detach(), training, 0.1, 2e-5)
            output.backward(random(*output.shape, seed=3).to(memory_format=torch.channels_last))
            results += [output, images.grad, weight.grad, mean, var]
        return results

    yield "batch norm, training", lambda: batch_norm(training=True)
    yield "batch norm, validation", lambda: batch_norm(training=False)

    def pooling() -> list[torch.Tensor | None]:
        images = channels_last(random(32, 80, 7, 7))
        output = images.mean((2, 3))
        output.backward(random(32, 80, seed=3))
        return [output, images.grad]

    yield "global mean", pooling

    def linear() -> list[torch.Tensor | None]:
        results: list[torch.Tensor | None] = []
        for inputs, outputs in ((64, 10), (320, 10), (1280, 1000)):
            images, weight = random(64, inputs).requires_grad_(), random(outputs, inputs, seed=2).requires_grad_()
            output = functional.linear(images, weight, random(outputs, seed=4))
            output.backward(random(*output.shape, seed=3))
            results += [output, images.grad, weight.grad]
        return results

    yield "linear layer", linear

    def cross_entropy() -> list[torch.Tensor | None]:
        results: list[torch.Tensor | None] = []
        for classes in (10, 1000):
            logits = random(64, classes).requires_grad_()
            loss = functional.cross_entropy(logits, torch.arange(64) % classes, label_smoothing=0.1)
            loss.backward()
            results += [
                loss,
                logits.grad,
                functional.cross_entropy(logits, torch.arange(64) % classes, reduction="sum"),
            ]
        return results

    yield "cross entropy", cross_entropy

    def optimizer() -> list[torch.Tensor]:
        weights = [random(40, 16, 3, 3).requires_grad_(), random(17).requires_grad_()]
        sgd = torch.optim.SGD(weights, lr=0.0371, momentum=0.9, nesterov=True, weight_decay=4e-5, fused=True)
        for step in range(3):
            for weight in weights:
                weight.grad = random(*weight.shape, seed=step)
            sgd.step()
        return list(weights)

    yield "optimizer", optimizer

    def draws() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(5)
        normal = torch.empty(1003).normal_(0, 0.3, generator=generator)
        return [normal, torch.randperm(1000, generator=generator), torch.rand(33, generator=generator)]

    yield "random draws", draws
    yield "whole training", lambda: train_one(batches=6)


def train_one(batches: int) -> Iterator[object]:
    """Train a network of the smallest space for some batches. Yield its sums of losses and hits, then its state."""
    from dataclasses import asdict

    from eatnas_db.domain.macro import PRESETS
    from eatnas_protocol.messages import Assign
    from eatnas_training.selftest import NETWORK
    from eatnas_training.steps import StepRunner

    code = Architecture.parse(NETWORK).to_code()
    assign = Assign(
        candidate=1,
        attempt=1,
        code=code,
        macro=asdict(PRESETS["eatnas-tiny"]),
        task={"resolution": 8, "channels": 1, "classes": 10},
        data={"name": "digits", "train_images": 512, "validation_images": 256},
        training={"epochs": 1, "batch_size": 64, "learning_rate": 0.1, "augment": "shift"},
        seed=7,
        checkpoint_folder="",
        log_file="",
    )
    runner = StepRunner(assign)
    runner.load()
    runner.build()
    for _ in range(batches):
        runner.train_step()
    yield runner.state.sums
    runner.validate_step(0, runner.state.sums)
    yield runner.state.sums
    yield from runner.state.model.state_dict().values()


def digests_here(every: int) -> dict[str, str]:
    """Return the digest of every operation in this process."""
    import torch

    from eatnas_training.numerics import use_deterministic_arithmetic

    torch.set_num_threads(1)
    use_deterministic_arithmetic()
    digests = {"instructions of torch": torch.backends.cpu.get_cpu_capability()}
    for name, compute in operations(every):
        sha256 = hashlib.sha256()
        for result in compute():
            assert isinstance(result, torch.Tensor), name
            sha256.update(result.detach().contiguous().numpy().tobytes())
        digests[name] = sha256.hexdigest()[:8]
    return digests


def digests_under(limits: dict[str, str], every: int, processor: str = "") -> dict[str, str]:
    """Return the digests that a child process computes under these variables; after a crash, only the exit status."""
    command = [*shlex.split(processor), sys.executable, __file__, "--child", "--every", str(every)]
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"instructions of torch": f"status {done.returncode}"}
    digests: dict[str, str] = json.loads(done.stdout)
    return digests


def step_milliseconds(space: str, side: int, kind: str, steps: int = 12) -> float:
    """Return the median processor time of a training step in this process, in milliseconds."""
    import torch

    from eatnas_db.domain.macro import PRESETS, Task
    from eatnas_training.network import build, initialize
    from eatnas_training.numerics import use_deterministic_arithmetic
    from eatnas_training.optimizer import make_optimizer

    torch.set_num_threads(1)
    use_deterministic_arithmetic()
    macro, task = PRESETS[space], Task(side, 1, 10)
    block = COST_BLOCKS[kind]
    model = build(Architecture.parse("/".join([block] * len(macro.base))), macro, task)
    initialize(model, 1)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, TrainingRecipe())
    images = torch.rand(64, 1, side, side).to(memory_format=torch.channels_last)
    labels = torch.arange(64) % 10
    seconds = []
    for _ in range(steps):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    return 1e3 * statistics.median(seconds[2:])


def print_cost(pairs: int) -> None:
    """Print a Markdown table of the processor time of a training step with native and with portable arithmetic."""
    print("| network | native, ms | portable, ms | median ratio of the pairs (least to largest) |\n|---|---|---|---|")
    for space, side in (("eatnas-tiny", 8), ("eatnas-small", 28)):
        for kind in COST_BLOCKS:
            command = [sys.executable, __file__, "--child", "--cost-of", space, str(side), kind]
            found: dict[str, list[float]] = {"native": [], "portable": []}
            for number in range(pairs):
                order = ("native", "portable") if number % 2 else ("portable", "native")
                for arithmetic in order:
                    environment = worker_variables(os.environ, arithmetic)
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                    found[arithmetic].append(float(done.stdout))
            native, portable = (statistics.median(values) for values in found.values())
            ratios = [there / here for here, there in zip(*found.values(), strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {space}, {kind} | {native:.1f} | {portable:.1f} | {ratio} |", flush=True)


def print_table(columns: dict[str, dict[str, str]]) -> None:
    """Print a Markdown table of the digests, one row for each operation."""
    print(f"| operation | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    names = dict.fromkeys(name for digests in columns.values() for name in digests)
    for name in names:
        print(f"| {name} | {' | '.join(digests.get(name, 'none') for digests in columns.values())} |")


def main() -> None:
    """Print the digests of all operations under all limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--every", type=int, default=7, metavar="N", help="compare only every Nth shape of the convolutions; default: 7"
    )
    parser.add_argument("--processors", nargs="*", default=[], metavar="COMMAND")
    parser.add_argument("--cost", type=int, default=0, metavar="PAIRS")
    parser.add_argument("--cost-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cost_of:
        space, side, kind = options.cost_of
        print(step_milliseconds(space, int(side), kind))
        return
    if options.cost:
        print_cost(options.cost)
        return
    if options.child:
        print(json.dumps(digests_here(options.every)))
        return
    columns = {name: digests_under(limits, options.every) for name, limits in LIMITS.items()}
    for processor in options.processors:
        for arithmetic, settings in (("native", {}), ("portable", PORTABLE_SETTINGS)):
            name = f"{arithmetic} on {processor.split()[-1]}"
            columns[name] = digests_under(settings, options.every, processor)
    print_table(columns)


if __name__ == "__main__":
    main()
