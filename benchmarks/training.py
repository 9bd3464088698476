"""Compare the training speed of our loop, a hand-written bare loop, and a pipeline of a DataLoader and PIL.

All train the same network in the same precision, one at a time and several at the same time. The rounds of the three
kinds alternate, and the program prints medians. Images per second need an otherwise idle machine. Processor seconds per
1000 images, loaders included, are comparable on a busy machine too, but do not include the work of a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import psutil

CODES = {
    "small": "mb3_k3_d2_w0.5/sep_k7_d2_w1.0_skip/mb3_k3_d2_w0.5/sep_k3_d1_w1.0/mb3_k3_d1_w0.5/"
    "sep_k7_d2_w0.5_skip/mb6_k3_d2_w0.5",
    "large": "mb6_k5_d2_w1.0_skip/mb3_k7_d2_w1.0_skip/mb6_k3_d2_w1.0_skip/sep_k7_d1_w1.0_skip/mb3_k5_d2_w1.0_skip/"
    "sep_k7_d2_w1.0_skip/mb6_k3_d2_w1.0",
}
KINDS = ("loop", "bare", "pipeline")
WARM_UP_BATCHES = 8
"""The number of batches before a process is ready. Half as many batches precede each round."""


class RoundClock:
    """Measures the rounds within a training process. Between two rounds, the process waits."""

    def __init__(self, batch_size: int, device: str) -> None:
        self._batch_size, self._device, self._process = batch_size, device, psutil.Process()
        self._warm_up, self._started_at, self._cpu = WARM_UP_BATCHES, 0.0, 0.0
        self._ends_at, self._batches, self._seconds = math.inf, 0, 0.0

    def next_batch(self) -> None:
        """Count a batch. Called before every step."""
        if self._warm_up:
            self._warm_up -= 1
            if not self._warm_up and self._seconds:
                self._synchronize()
                self._started_at, self._cpu, self._batches = time.perf_counter(), self._cpu_seconds(), 0
                self._ends_at = self._started_at + self._seconds
                return
            if self._warm_up:
                return
        self._batches += 1
        if self._seconds and time.perf_counter() < self._ends_at:
            return
        self._synchronize()
        if self._seconds:
            seconds, images = time.perf_counter() - self._started_at, self._batches * self._batch_size
            cpu = (self._cpu_seconds() - self._cpu) / images
            print(json.dumps({"images_per_second": images / seconds, "cpu_seconds": cpu}), flush=True)
        else:
            print("ready", flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)  # exits at once, without waiting for the loaders
        self._seconds, self._warm_up = float(line), WARM_UP_BATCHES // 2

    def _cpu_seconds(self) -> float:
        """Return the processor time of this process and of its loaders."""
        processes = [self._process, *self._process.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        return sum(used.user + used.system for used in times)

    def _synchronize(self) -> None:
        import torch

        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def train_in_this_process(options: argparse.Namespace) -> None:
    """Train until standard input ends."""
    import torch

    from eatnas_db.domain.architecture import Architecture
    from eatnas_db.domain.macro import PRESETS
    from eatnas_protocol.messages import Assign
    from eatnas_training import prepare

    torch.set_num_threads(1)
    # All three kinds use the precision of our loop.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    data = {"name": options.data, "root": options.root, "validation_images": options.batch_size}
    description = prepare.describe(data)
    assign = Assign(
        candidate=1,
        attempt=1,
        code=Architecture.parse(CODES[options.network]).to_code(),
        macro=asdict(PRESETS[options.space]),
        task={key: description[key] for key in ("resolution", "channels", "classes")},
        data=data,
        training={
            "epochs": 1000,
            "batch_size": options.batch_size,
            "precision": options.precision,
            "learning_rate": 0.01,
            "checkpoint_seconds": 86_400,
        },
        seed=7,
        checkpoint_folder=os.devnull,
        log_file=os.devnull,
    )
    clock = RoundClock(options.batch_size, options.device)
    train = {"loop": train_by_loop, "bare": train_bare, "pipeline": train_by_pipeline}[options.kind]
    train(assign, options, clock.next_batch)


def train_by_loop(assign: Any, options: argparse.Namespace, next_batch: Callable[[], None]) -> None:
    """Train as a worker does, including its reports."""
    from eatnas_protocol.framing import encode
    from eatnas_training.loop import train
    from eatnas_training.worker_protocol import StopRequest

    def stop_request() -> StopRequest:
        next_batch()
        return StopRequest.NONE

    for report in train(assign, stop_request, device=options.device):
        if report is not None:
            encode(report)


def train_bare(assign: Any, options: argparse.Namespace, next_batch: Callable[[], None]) -> None:
    """Train on one tensor with all images, cropped and flipped on the device."""
    import torch

    from eatnas_training.data import datasets

    images, labels = (torch.from_numpy(array).to(options.device) for array in _arrays(datasets, assign))
    count, _, side, _ = images.shape
    padding, mean, deviation = max(1, side // 8), images.float().mean((0, 2, 3), keepdim=True), 64.0
    offsets = torch.arange(side, device=options.device)

    def batches() -> Iterator[tuple[Any, Any]]:
        while True:
            order = torch.randperm(count).to(options.device)
            for start in range(0, count - options.batch_size + 1, options.batch_size):
                chosen = order[start : start + options.batch_size]
                shifts = torch.randint(0, 2 * padding + 1, (2, len(chosen), 1), device=options.device)
                rows, columns = shifts[0] + offsets, shifts[1] + offsets
                flipped = torch.rand((len(chosen), 1), device=options.device) < 0.5
                columns = torch.where(flipped, columns.flip(1), columns)
                padded = torch.nn.functional.pad(images[chosen], (padding,) * 4).permute(0, 2, 3, 1)
                index = torch.arange(len(chosen), device=options.device)[:, None, None]
                cropped = padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
                yield (cropped.float() - mean) / deviation, labels[chosen]

    _train_on(batches(), assign, options, next_batch)


def train_by_pipeline(assign: Any, options: argparse.Namespace, next_batch: Callable[[], None]) -> None:
    """Train on a Dataset of PIL images with torchvision's transforms and a DataLoader."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from eatnas_training.data import datasets

    images, labels = _arrays(datasets, assign)
    channels, side = images.shape[1], images.shape[2]
    transform = transforms.Compose(
        [
            transforms.RandomCrop(side, padding=max(1, side // 8)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * channels, [0.25] * channels),
        ]
    )

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> Any:
            pixels = images[index, 0] if channels == 1 else images[index].transpose(1, 2, 0)
            return transform(Image.fromarray(pixels)), int(labels[index])

    loader = torch.utils.data.DataLoader(
        Pictures(),
        options.batch_size,
        shuffle=True,
        num_workers=options.loaders,
        drop_last=True,
        pin_memory=options.device != "cpu",
        persistent_workers=options.loaders > 0,
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    on_device = ((x.to(options.device, non_blocking=True), y.to(options.device, non_blocking=True)) for x, y in batches)
    _train_on(on_device, assign, options, next_batch)


def _arrays(datasets: Any, assign: Any) -> tuple[Any, Any]:
    part = datasets.load_training(assign.data).train
    return part.images, part.labels


def _train_on(batches: Iterator[Any], assign: Any, options: argparse.Namespace, next_batch: Callable[[], None]) -> None:
    """Train the network on endless batches with the optimizer of our loop."""
    import torch

    from eatnas_db.domain.architecture import Architecture
    from eatnas_db.domain.macro import PRESETS, Task
    from eatnas_training import network, numerics

    model = network.build(Architecture.from_code(assign.code), PRESETS[options.space], Task(**assign.task))
    network.initialize(model, 7)
    model = model.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=4e-5, fused=True)
    uses_bfloat16 = numerics.resolve_precision(options.device, options.precision) == "bfloat16"
    total = torch.zeros((), device=options.device)
    for images, labels in batches:
        next_batch()
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=uses_bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()


class Speed(NamedTuple):
    """The result of one round."""

    images_per_second: float
    """The total of all processes."""
    cpu_seconds: float
    """The processor seconds per image."""


Speeds = dict[tuple[str, int], list[Speed]]
"""The rounds by kind of loop and number of processes."""


def start_process(kind: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start a training process and wait until it has warmed up."""
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, __file__, *arguments, "--kind", kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        sys.exit(f"the process for {kind} did not start")
    return process


def run_round(processes: Sequence[subprocess.Popen[str]], seconds: float) -> Speed:
    """Let processes train at the same time, and return their total speed."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    speeds = [Speed(**json.loads(process.stdout.readline())) for process in processes if process.stdout is not None]
    cpu_seconds = sum(speed.cpu_seconds for speed in speeds) / len(speeds)
    return Speed(sum(speed.images_per_second for speed in speeds), cpu_seconds)


def print_medians(speeds: Speeds, options: argparse.Namespace, counts: Sequence[int]) -> None:
    """Print the medians, and the ratios between our loop and the other kinds."""

    def median_ratio(numerator: tuple[str, int], denominator: tuple[str, int], field: str) -> float:
        pairs = zip(speeds[numerator], speeds[denominator], strict=True)
        return statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs)

    print(
        f"{options.data}, batches of {options.batch_size}, {options.space}, {options.network} network, {options.device}"
    )
    for (kind, count), rounds in speeds.items():
        images, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"  {kind:9} x {count}: {images:9.0f} images/s, {1000 * cpu:6.3f} processor seconds per 1000 images")
    if "loop" not in options.kinds:
        return
    for count, kind in itertools.product(counts, sorted(set(options.kinds) - {"loop"})):
        wall = median_ratio(("loop", count), (kind, count), "images_per_second")
        cpu = median_ratio((kind, count), ("loop", count), "cpu_seconds")
        print(f"loop relative to {kind}, {count} at a time: {wall:.3f} by the wall clock, {cpu:.3f} by processor time")
    if len(counts) > 1:
        ratio = median_ratio(("loop", counts[-1]), ("loop", 1), "images_per_second")
        print(f"{counts[-1]} at a time relative to one: {ratio:.3f} times the images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="device, cpu or cuda:N")
    parser.add_argument("--space", default="eatnas-small")
    parser.add_argument("--network", choices=CODES, default="small")
    parser.add_argument("--data", default="FashionMNIST")
    parser.add_argument("--root", help="folder of the data set's files")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--loaders", type=int, default=2, help="number of processes of each training's DataLoader")
    parser.add_argument("--packed", type=int, help="number of parallel trainings; default: one per core, or 2 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        train_in_this_process(options)
        return
    # On a GPU, each process has its own CUDA context, so only a few fit.
    options.packed = options.packed or (psutil.cpu_count(logical=False) or 1 if options.device == "cpu" else 2)
    counts = sorted({1, options.packed})
    processes = {kind: [start_process(kind, sys.argv[1:]) for _ in range(counts[-1])] for kind in options.kinds}
    speeds: Speeds = {}
    try:
        for _, count, kind in itertools.product(range(options.rounds), counts, options.kinds):
            speeds.setdefault((kind, count), []).append(run_round(processes[kind][:count], options.seconds))
    finally:
        for process in itertools.chain.from_iterable(processes.values()):
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    print_medians(speeds, options, counts)


if __name__ == "__main__":
    main()
