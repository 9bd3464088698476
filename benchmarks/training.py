"""Images a second: our loop, a bare loop written by hand, and the usual pipeline of a DataLoader and PIL.

All train the same network in the same precision, alone and packed, so many at once; rounds alternate, and medians are
told. Wall time is what counts and wants a machine of one's own; the processor's seconds for 1000 images, loaders
included, hold on a busy one as well, but say nothing of a GPU.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import psutil

CODES = {
    "small": "mb3_k3_d2_w0.5/sep_k7_d2_w1.0_skip/mb3_k3_d2_w0.5/sep_k3_d1_w1.0/mb3_k3_d1_w0.5/"
    "sep_k7_d2_w0.5_skip/mb6_k3_d2_w0.5",
    "large": "mb6_k5_d2_w1.0_skip/mb3_k7_d2_w1.0_skip/mb6_k3_d2_w1.0_skip/sep_k7_d1_w1.0_skip/mb3_k5_d2_w1.0_skip/"
    "sep_k7_d2_w1.0_skip/mb6_k3_d2_w1.0",
}
KINDS = ("loop", "bare", "pipeline")
WARM_UP = 8
"""Batches before a child is ready, and half of them again before each round's clock starts."""


class Rounds:
    """Asked between two batches: runs the clock of each round, and waits for the next one in between."""

    def __init__(self, batch_size: int, device: str) -> None:
        self._size, self._device, self._process = batch_size, device, psutil.Process()
        self._left, self._start, self._cpu = WARM_UP, 0.0, 0.0
        self._until, self._batches, self._seconds = math.inf, 0, 0.0

    def between(self) -> None:
        """Count a batch."""
        if self._left:
            self._left -= 1
            if not self._left and self._seconds:
                self._wait()
                self._start, self._cpu, self._batches = time.perf_counter(), self._spent(), 0
                self._until = self._start + self._seconds
                return
            if self._left:
                return
        self._batches += 1
        if self._seconds and time.perf_counter() < self._until:
            return
        self._wait()
        if self._seconds:
            wall, images = time.perf_counter() - self._start, self._batches * self._size
            print(json.dumps({"speed": images / wall, "cpu": (self._spent() - self._cpu) / images}), flush=True)
        else:
            print("ready", flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)  # whatever is under way, loaders included, is of no use any more
        self._seconds, self._left = float(line), WARM_UP // 2

    def _spent(self) -> float:
        """The processor's seconds of this process and of those that load for it."""
        family = [self._process, *self._process.children(recursive=True)]
        return sum(times.user + times.system for times in (one.cpu_times() for one in family))

    def _wait(self) -> None:
        import torch

        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def child(asked: argparse.Namespace) -> None:
    """Train until told to leave."""
    import torch

    from eatnas_db.domain.architecture import Architecture
    from eatnas_db.domain.macro import PRESETS
    from eatnas_protocol.messages import Assign
    from eatnas_training import prepare

    torch.set_num_threads(1)
    # As in our loop: one precision for all three.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    data = {"name": asked.data, "root": asked.root, "validation_images": asked.batch_size}
    described = prepare.describe(data)
    task = {key: described[key] for key in ("resolution", "channels", "classes")}
    training = {"epochs": 1000, "batch_size": asked.batch_size, "precision": asked.precision, "learning_rate": 0.01}
    assign = Assign(
        *(1, 1, Architecture.parse(CODES[asked.network]).to_code(), asdict(PRESETS[asked.space]), task, data),
        *({**training, "checkpoint_seconds": 86_400}, 7, os.devnull, os.devnull),
    )
    rounds = Rounds(asked.batch_size, asked.device)
    {"loop": ours, "bare": bare, "pipeline": pipeline}[asked.kind](assign, asked, rounds.between)


def ours(assign: Any, asked: argparse.Namespace, between: Callable[[], None]) -> None:
    """What a worker does, its reports included."""
    from eatnas_protocol.framing import encode
    from eatnas_training.loop import train
    from eatnas_training.worker_protocol import StopRequest

    def wanted() -> StopRequest:
        between()
        return StopRequest.NONE

    for report in train(assign, wanted, device=asked.device):
        encode(report)


def bare(assign: Any, asked: argparse.Namespace, between: Callable[[], None]) -> None:
    """All images on the device as one tensor, cropped and mirrored there."""
    import torch

    from eatnas_training.data import datasets

    images, labels = (torch.from_numpy(array).to(asked.device) for array in _arrays(datasets, assign))
    count, _, side, _ = images.shape
    reach, mean, deviation = max(1, side // 8), images.float().mean((0, 2, 3), keepdim=True), 64.0
    line = torch.arange(side, device=asked.device)

    def batches() -> Iterator[tuple[Any, Any]]:
        while True:
            order = torch.randperm(count).to(asked.device)
            for at in range(0, count - asked.batch_size + 1, asked.batch_size):
                chosen = order[at : at + asked.batch_size]
                shifts = torch.randint(0, 2 * reach + 1, (2, len(chosen), 1), device=asked.device)
                rows, columns = shifts[0] + line, shifts[1] + line
                mirrored = torch.rand((len(chosen), 1), device=asked.device) < 0.5
                columns = torch.where(mirrored, columns.flip(1), columns)
                padded = torch.nn.functional.pad(images[chosen], (reach,) * 4).permute(0, 2, 3, 1)
                which = torch.arange(len(chosen), device=asked.device)[:, None, None]
                cropped = padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
                yield (cropped.float() - mean) / deviation, labels[chosen]

    _train_on(batches(), assign, asked, between)


def pipeline(assign: Any, asked: argparse.Namespace, between: Callable[[], None]) -> None:
    """A Dataset of PIL images, torchvision's transforms, a DataLoader with processes."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from eatnas_training.data import datasets

    images, labels = _arrays(datasets, assign)
    channels, side = images.shape[1], images.shape[2]
    change = transforms.Compose(
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
            return change(Image.fromarray(pixels)), int(labels[index])

    loader = torch.utils.data.DataLoader(
        Pictures(),
        asked.batch_size,
        shuffle=True,
        num_workers=asked.loaders,
        drop_last=True,
        pin_memory=asked.device != "cpu",
        persistent_workers=asked.loaders > 0,
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    moved = ((x.to(asked.device, non_blocking=True), y.to(asked.device, non_blocking=True)) for x, y in batches)
    _train_on(moved, assign, asked, between)


def _arrays(datasets: Any, assign: Any) -> tuple[Any, Any]:
    part = datasets.load_training(assign.data).train
    return part.images, part.labels


def _train_on(batches: Iterator[Any], assign: Any, asked: argparse.Namespace, between: Callable[[], None]) -> None:
    import torch

    from eatnas_db.domain.architecture import Architecture
    from eatnas_db.domain.macro import PRESETS, Task
    from eatnas_training import network, numerics

    model = network.build(Architecture.from_code(assign.code), PRESETS[asked.space], Task(**assign.task))
    network.initialize(model, 7)
    model = model.to(asked.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=4e-5, fused=True)
    half = numerics.resolve_precision(asked.device, asked.precision) == "bfloat16"
    total = torch.zeros((), device=asked.device)
    for images, labels in batches:
        between()
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(asked.device).type, torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()


def started(kind: str, arguments: list[str]) -> subprocess.Popen[str]:
    """A child that is warm and waits for its first round."""
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, __file__, *arguments, "--kind", kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        sys.exit(f"{kind} did not get ready")
    return process


def one_round(processes: list[subprocess.Popen[str]], seconds: float) -> dict[str, float]:
    """All of them at once: their images a second together, and the processor's seconds for each image."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for process in processes if process.stdout is not None]
    cpu = sum(answer["cpu"] for answer in answers) / len(answers)
    return {"speed": sum(answer["speed"] for answer in answers), "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--space", default="eatnas-small")
    parser.add_argument("--network", choices=CODES, default="small")
    parser.add_argument("--data", default="FashionMNIST")
    parser.add_argument("--root", help="where its files lie")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--loaders", type=int, default=2, help="processes of the DataLoader, for each training")
    parser.add_argument("--packed", type=int, help="so many at once; default: the cores, on a GPU 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.kind:
        child(asked)
        return
    # On a GPU each process of each kind has a context of its own, all the time.
    asked.packed = asked.packed or (psutil.cpu_count(logical=False) or 1 if asked.device == "cpu" else 2)
    counts = sorted({1, asked.packed})
    processes = {kind: [started(kind, sys.argv[1:]) for _ in range(counts[-1])] for kind in asked.kinds}
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    try:
        for _, count, kind in itertools.product(range(asked.rounds), counts, asked.kinds):
            found.setdefault((kind, count), []).append(one_round(processes[kind][:count], asked.seconds))
    finally:
        for process in itertools.chain.from_iterable(processes.values()):
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    tell(found, asked, counts)


def tell(found: dict[tuple[str, int], list[dict[str, float]]], asked: argparse.Namespace, counts: list[int]) -> None:
    """The medians, and what they come to."""

    def ratio(one: tuple[str, int], other: tuple[str, int], what: str = "speed") -> float:
        pairs = zip(found[one], found[other], strict=True)
        return statistics.median(a[what] / b[what] for a, b in pairs)

    print(f"{asked.data} at batch {asked.batch_size}, {asked.space}, the {asked.network} network, {asked.device}")
    for (kind, count), rounds in found.items():
        speed, cpu = (statistics.median(one[what] for one in rounds) for what in ("speed", "cpu"))
        print(f"  {kind:9} x {count}: {speed:9.0f} images/s, {1000 * cpu:6.3f} processor seconds for 1000 images")
    for count, kind in itertools.product(counts, set(asked.kinds) - {"loop"} if "loop" in asked.kinds else ()):
        speed, cpu = ratio(("loop", count), (kind, count)), ratio((kind, count), ("loop", count), "cpu")
        print(f"loop against {kind}, {count} at once: {speed:.3f} by the wall clock, {cpu:.3f} by processor seconds")
    if "loop" in asked.kinds and len(counts) > 1:
        many = counts[-1]
        print(f"{many} at once against one: {ratio(('loop', many), ('loop', 1)):.3f} times the images/s")


if __name__ == "__main__":
    main()
