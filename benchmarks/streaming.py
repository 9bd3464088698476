"""Compare the speed of two readers of a folder of JPEGs: our threads, and a DataLoader with processes. Both readers
crop at random, resize, flip and normalise. Their rounds alternate, and the program prints medians. Then it trains a
network from the folder, and prints the share of the time for which the network waits for images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from eatnas_db.domain.macro import PRESETS
from eatnas_protocol.messages import Assign
from eatnas_training.data import streaming
from eatnas_training.data.batches import BatchKey, DataPart
from eatnas_training.data.decoding import DecoderPool
from eatnas_training.data.loading import THREADS_VARIABLE
from eatnas_training.data.streamed_files import list_streamed_files
from eatnas_training.steps import StepRunner

CODE: list[list[int | float]] = [[0, 1, 0, 0, 0.5]] * 7
NOISE_SCALES = (4, 16, 64)
WARM_UP_BATCHES = 6
"""The number of batches that a loader may have prepared before the clock starts."""
WARM_UP_STEPS = 3
TRAINING_SIDE = 64


class Speed(NamedTuple):
    """The result of one round."""

    images_per_second: float
    cpu_seconds: float
    """The processor seconds of all processes per 1000 images."""


def make_folder(root: Path, images: int, side: int, classes: int) -> None:
    """Write JPEGs with as much detail as photographs: noise at several scales."""
    rng = np.random.default_rng(0)
    for number in range(images):
        folder = root / "train" / f"class{number % classes:04}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((side, side, 3))
        for scale in NOISE_SCALES:
            coarse = rng.integers(0, 255, (scale, scale, 3)).astype(np.uint8)
            fine = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            pixels += np.asarray(fine) / len(NOISE_SCALES)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def batches_by_threads(data: dict[str, Any], batch_size: int, threads: int) -> Iterator[int]:
    """Read batches endlessly with our decoders. Yield the number of images in each batch."""
    streamed = list_streamed_files(data)
    assert streamed is not None
    part = streaming.StreamedPart(streamed.train, streamed.side, "cpu", DecoderPool(threads))
    key = BatchKey("crop_flip", 7, batch_size, 0, 0)
    while True:
        for batch in range(len(part.labels) // batch_size):
            part.batch(replace(key, batch=batch))
            yield batch_size
        key = replace(key, epoch=key.epoch + 1)


def batches_by_processes(root: Path, side: int, batch_size: int, processes: int) -> Iterator[int]:
    """Read batches endlessly with torchvision and a DataLoader. Yield the number of images in each batch."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(streaming.MEAN, streaming.DEVIATION),
        ]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(root / "train"), transform),
        batch_size,
        shuffle=True,
        num_workers=processes,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            images.contiguous(memory_format=torch.channels_last)
            yield batch_size


def measure(batches: Iterator[int], seconds: float) -> Speed:
    """Read batches for this many seconds, and return the speed."""
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    cpu, started, images = _cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        images += next(batches)
    return Speed(images / (time.perf_counter() - started), 1000 * (_cpu_seconds() - cpu) / images)


def _cpu_seconds() -> float:
    """Return the processor time of this process and its children."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in processes]
    return sum(used.user + used.system for used in times)


class TimedPart:
    """A part of a data set that adds up the seconds for which its batches take."""

    def __init__(self, part: DataPart) -> None:
        self._part, self.labels, self.waited_seconds = part, part.labels, 0.0

    def batch(self, key: BatchKey) -> tuple[torch.Tensor, torch.Tensor]:
        started = time.perf_counter()
        batch = self._part.batch(key)
        self.waited_seconds += time.perf_counter() - started
        return batch

    def between(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._part.between(start, stop)


def measure_training(
    data: dict[str, Any], batch_size: int, threads: int, steps: int, classes: int
) -> tuple[float, float]:
    """Train from the folder. Return the images per second and the share of the time spent waiting for images."""
    os.environ[THREADS_VARIABLE] = str(threads)
    task = {"resolution": data["resolution"], "channels": 3, "classes": classes}
    recipe = {"batch_size": batch_size, "epochs": 1000}
    runner = StepRunner(Assign(1, 1, CODE, asdict(PRESETS["eatnas-cifar"]), task, data, recipe, 7, "", ""))
    runner.load()
    part = TimedPart(runner.data.train)
    runner.data = replace(runner.data, train=part)
    runner.build()
    started = time.perf_counter()
    for step in range(steps + WARM_UP_STEPS):
        if step == WARM_UP_STEPS:
            part.waited_seconds, started = 0.0, time.perf_counter()
        runner.state.batch %= runner.batches
        runner.train_step()
    seconds = time.perf_counter() - started
    return steps * batch_size / seconds, part.waited_seconds / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=10, help="number of class folders")
    parser.add_argument("--stored-side", type=int, default=256, help="side of the JPEGs in pixels")
    parser.add_argument("--side", type=int, default=224, help="side of the images after resizing")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--decoders",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of decoders to compare, each as threads and as processes; default: 1 2",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--steps", type=int, default=30, help="number of steps of the training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_folder(root, options.images, options.stored_side, options.classes)
        # The images of a data set with this name are always streamed.
        data = {"name": "ImageNet", "root": name, "resolution": options.side}
        sources: dict[str, Iterator[int]] = {}
        for decoders in options.decoders:
            sources[f"{decoders} threads"] = batches_by_threads(data, options.batch_size, decoders)
            sources[f"{decoders} processes"] = batches_by_processes(root, options.side, options.batch_size, decoders)
        speeds: dict[str, list[Speed]] = {source: [] for source in sources}
        for _ in range(options.rounds):
            for source, batches in sources.items():
                speeds[source].append(measure(batches, options.seconds))
        for source, rounds in speeds.items():
            images, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{source}: {images:.0f} images/s, {cpu:.2f} processor seconds per 1000 images")
        del sources
        for decoders in options.decoders:
            small = {**data, "resolution": TRAINING_SIDE}
            images, share = measure_training(small, options.batch_size, decoders, options.steps, options.classes)
            print(
                f"training at {TRAINING_SIDE} pixels, {decoders} threads: {images:.0f} images/s, "
                f"{100 * share:.1f}% of the time waiting"
            )


if __name__ == "__main__":
    main()
