"""Images a second out of files: our threads beside a DataLoader's processes, over a folder of JPEGs made for it.

Both crop at random, resize, mirror and normalise. Rounds alternate; medians. Then a network trains from the folder:
what share of its time it waits for images, by how many threads decode.
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
from typing import Any

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

CLASSES = 10
CODE: list[list[int | float]] = [[0, 1, 0, 0, 0.5]] * 7


def make_folder(root: Path, images: int, side: int) -> None:
    """JPEGs with the detail of photographs: noise of several scales."""
    chance = np.random.default_rng(0)
    for number in range(images):
        below = root / "train" / f"class{number % CLASSES}"
        below.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((side, side, 3))
        for scale in (4, 16, 64):
            coarse = chance.integers(0, 255, (scale, scale, 3)).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)) / 3
        Image.fromarray(pixels.astype(np.uint8)).save(below / f"{number}.jpg", quality=90)


def threaded(spec: dict[str, Any], size: int, threads: int) -> Iterator[int]:
    """Batches by our threads, without end."""
    found = list_streamed_files(spec)
    assert found is not None
    part = streaming.StreamedPart(found.train, found.side, "cpu", DecoderPool(threads))
    key = BatchKey("crop_flip", 7, size, 0, 0)
    while True:
        for batch in range(len(part.labels) // size):
            part.batch(replace(key, batch=batch))
            yield size
        key = replace(key, epoch=key.epoch + 1)


def loaded(root: Path, side: int, size: int, processes: int) -> Iterator[int]:
    """Batches by torchvision's folder and transforms and a DataLoader, without end."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(streaming.MEAN, streaming.DEVIATION),
        ]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(root / "train"), change),
        size,
        shuffle=True,
        num_workers=processes,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            images.contiguous(memory_format=torch.channels_last)
            yield size


def timed(batches: Iterator[int], seconds: float) -> tuple[float, float]:
    """Images a second, and the processor's seconds for 1000 images, of all processes."""
    for _ in range(6):  # what was got ready while nobody asked
        next(batches)
    cpu, began, images = _spent(), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        images += next(batches)
    return images / (time.perf_counter() - began), 1000 * (_spent() - cpu) / images


def _spent() -> float:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(spent.user + spent.system for spent in (one.cpu_times() for one in family))


class Watched:
    """A part whose batches are waited for with a watch in hand."""

    def __init__(self, part: DataPart) -> None:
        self._part, self.labels, self.waited = part, part.labels, 0.0

    def batch(self, key: BatchKey) -> tuple[torch.Tensor, torch.Tensor]:
        began = time.perf_counter()
        batch = self._part.batch(key)
        self.waited += time.perf_counter() - began
        return batch

    def between(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._part.between(start, stop)


def training_with(spec: dict[str, Any], size: int, threads: int, steps: int) -> tuple[float, float]:
    """Images a second of a training, and the share of its time in which it has no images."""
    os.environ[THREADS_VARIABLE] = str(threads)
    task = {"resolution": spec["resolution"], "channels": 3, "classes": CLASSES}
    recipe = {"batch_size": size, "epochs": 1000}
    runner = StepRunner(Assign(1, 1, CODE, asdict(PRESETS["eatnas-cifar"]), task, spec, recipe, 7, "", ""))
    runner.load()
    watched = Watched(runner.data.train)
    runner.data = replace(runner.data, train=watched)
    runner.build()
    for step in range(steps + 3):
        if step == 3:
            watched.waited, began = 0.0, time.perf_counter()
        runner.state.batch %= runner.batches
        runner.train_step()
    seconds = time.perf_counter() - began
    return steps * size / seconds, watched.waited / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--stored-side", type=int, default=256)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--decoders", type=int, nargs="+", default=[1, 2], help="threads, and processes beside them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--steps", type=int, default=30, help="of the training")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_folder(root, asked.images, asked.stored_side)
        # By that name a folder of any size streams.
        spec = {"name": "ImageNet", "root": name, "resolution": asked.side}
        sources = {}
        for decoders in asked.decoders:
            sources[f"{decoders} threads"] = threaded(spec, asked.batch_size, decoders)
            sources[f"{decoders} processes"] = loaded(root, asked.side, asked.batch_size, decoders)
        found: dict[str, list[tuple[float, float]]] = {source: [] for source in sources}
        for _ in range(asked.rounds):
            for source, batches in sources.items():
                found[source].append(timed(batches, asked.seconds))
        for source, rounds in found.items():
            speed, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{source}: {speed:.0f} images/s, {cpu:.2f} processor seconds for 1000 images")
        del sources
        for decoders in asked.decoders:
            speed, share = training_with({**spec, "resolution": 64}, asked.batch_size, decoders, asked.steps)
            print(f"training at 64 pixels, {decoders} threads: {speed:.0f} images/s, {100 * share:.1f}% of it waiting")


if __name__ == "__main__":
    main()
