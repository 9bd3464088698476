from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign, Released, Resumed
from eatnas_training import prepare
from eatnas_training.data import datasets, streaming
from eatnas_training.data.batches import BatchKey, DataPart, LoadedData, epoch_order
from eatnas_training.data.loading import THREADS_VARIABLE, load_data
from eatnas_training.data.resident import ResidentPart
from eatnas_training.data.streamed_files import list_streamed_files
from eatnas_training.worker_protocol import StopRequest
from support.trainings import after_calls, epoch_metrics, failed, finished, run_training

CLASSES, EACH, SIDE = 3, 80, 16
CODE: list[list[int | float]] = [[0, 1, 1, 1, 0.5], [1, 0, 1, 0, 0.5]] * 3 + [[2, 0, 1, 0, 0.5]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small ImageNet: 240 JPEGs of various sizes, with one color for each class."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        below = root / "train" / f"n0{label}"
        below.mkdir(parents=True)
        for number in range(EACH):
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 80, (height, width, 3)).astype(np.uint8)
            pixels[:, :, label] += 150
            PIL.Image.fromarray(pixels).save(below / f"{number}.JPEG", quality=80)
    return root


def make_classes(root: Path) -> None:
    for name in "ab":
        (root / "train" / name).mkdir(parents=True)


def spec(root: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "ImageNet", "root": str(root), "resolution": SIDE, **changes}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedData]:
    """Return a function that loads the data with a given number of threads."""

    def load_with(root: Path, threads: int = 2, **changes: Any) -> LoadedData:
        monkeypatch.setenv(THREADS_VARIABLE, str(threads))
        return load_data(spec(root, **changes), "cpu")

    return load_with


def batches(part: DataPart, size: int = 16, **changes: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    key = BatchKey(**{"augment": "crop_flip", "seed": 7, "size": size, "epoch": 0, "batch": 0, **changes})
    return [part.batch(replace(key, batch=batch)) for batch in range(key.batch, len(part.labels) // size)]


def assert_same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> None:
    for pair in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_streamed_data_are_described_without_decoding(folder: Path, tmp_path: Path) -> None:
    described = prepare.describe(spec(folder))
    assert (described["train_images"], described["validation_images"]) == (192, 48)
    assert (described["resolution"], described["channels"], described["classes"]) == (SIDE, 3, CLASSES)
    make_classes(tmp_path)
    for number in range(10):
        (tmp_path / "train" / "ab"[number % 2] / f"{number}.JPEG").write_bytes(b"no image")
    assert prepare.describe(spec(tmp_path, resolution=None))["resolution"] == 224


def test_digest_covers_paths_sizes_split_and_side(folder: Path, tmp_path: Path) -> None:
    def digest(root: Path, **changes: Any) -> str:
        return str(prepare.describe(spec(root, **changes))["data_digest"])

    copied = shutil.copytree(folder, tmp_path / "copied")
    path = copied / "train" / "n00" / "3.JPEG"
    os.utime(path, (0, 0))
    first = digest(folder)
    assert digest(copied) == first
    others = {digest(folder, split_seed=1), digest(folder, train_images=100), digest(folder, resolution=8)}
    path.write_bytes(path.read_bytes() + b"x")
    others.add(digest(copied))
    path.rename(path.with_name("renamed.JPEG"))
    others.add(digest(copied))
    assert len({first, *others}) == 6


def test_image_folder_is_streamed_only_if_too_large(folder: Path) -> None:
    small = spec(folder, name="ImageFolder")
    assert list_streamed_files(small) is None
    assert isinstance(load_data(small, "cpu").train, ResidentPart)
    # A gigabyte holds 240 RGB images of 1024 × 1024 pixels, but not 240 images of 1300 × 1300 pixels.
    assert list_streamed_files({**small, "resolution": 1024}) is None
    assert list_streamed_files({**small, "resolution": 1300}) is not None
    with pytest.raises(DataError, match="do not fit into 1024 MiB at 1300"):
        datasets.load_training({**small, "resolution": 1300})


def test_batch_does_not_depend_on_the_number_of_threads(folder: Path, load: Callable[..., Any]) -> None:
    one, three = load(folder, 1), load(folder, 3)
    assert one is not three
    assert_same(batches(one.train), batches(three.train))
    count = len(one.held_out.labels)
    assert_same(
        *([data.held_out.between(at, min(at + 20, count)) for at in range(0, count, 20)] for data in (one, three))
    )


def test_flip_mirrors_half_of_the_centers(folder: Path, load: Callable[..., Any]) -> None:
    part = load(folder).train
    for (mirrored, _), (center, _) in zip(batches(part, augment="flip"), batches(part, augment="none"), strict=True):
        kept = (mirrored == center).all((1, 2, 3))
        assert 0 < kept.sum() < len(kept)
        assert torch.equal(mirrored[~kept], center[~kept].flip(3))


def test_batch_depends_only_on_its_key(folder: Path, load: Callable[..., Any]) -> None:
    data = load(folder)
    whole = batches(data.train)
    data.held_out.between(0, 48)
    batches(data.train, epoch=1)
    assert_same(whole[5:], batches(data.train, batch=5))
    images, labels = whole[0]
    for changes in ({"seed": 8}, {"epoch": 1}, {"augment": "shift"}, {"augment": "none"}):
        assert not torch.equal(batches(data.train, **changes)[0][0], images)
    assert torch.equal(batches(data.train, augment="none")[0][1], labels)


def test_each_epoch_has_every_image_once(folder: Path, load: Callable[..., Any]) -> None:
    data = load(folder)
    for epoch in (0, 1):
        taken = batches(data.train, epoch=epoch)
        assert len(taken) == 12
        for images, labels in taken:
            assert torch.equal(images.mean((2, 3)).argmax(1), labels)
        assert sorted(torch.cat([labels for _, labels in taken]).tolist()) == sorted(data.train.labels.tolist())


def test_batches_are_normalized_with_the_statistics_of_imagenet(tmp_path: Path) -> None:
    make_classes(tmp_path)
    for number in range(10):
        PIL.Image.new("RGB", (30, 40), (0, 128, 255)).save(tmp_path / "train" / "ab"[number % 2] / f"{number}.png")
    data = load_data(spec(tmp_path), "cpu")
    expected = (torch.tensor([0, 128, 255]) / 255 - torch.tensor(streaming.MEAN)) / torch.tensor(streaming.DEVIATION)
    for images, labels in (data.held_out.between(0, 2), batches(data.train, 4)[0]):
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.allclose(images, expected.reshape(1, 3, 1, 1).expand_as(images), atol=1e-4)


@pytest.mark.slow
def test_validation_takes_center_crops_and_training_random_ones(tmp_path: Path) -> None:
    # Red increases from left to right and green from top to bottom, so a pixel's color gives its original position.
    make_classes(tmp_path)
    grid = np.zeros((256, 256, 3), np.uint8)
    grid[:, :, 0], grid[:, :, 1] = np.arange(256), np.arange(256)[:, None]
    wide = np.pad(grid, ((0, 0), (100, 100), (0, 0)), mode="edge")
    for number in range(250):
        PIL.Image.fromarray(wide if number % 2 else grid).save(tmp_path / "train" / "ab"[number % 2] / f"{number}.png")
    data = load_data(spec(tmp_path, resolution=56), "cpu")
    scale, mean = (torch.tensor(values).reshape(1, 3, 1, 1) * 255 for values in (streaming.DEVIATION, streaming.MEAN))

    def edges(images: torch.Tensor) -> torch.Tensor:
        """Return red at the left and right edges, and green at the top and bottom edges, as a tensor `[B, 4]`."""
        pixels = images * scale + mean
        red, green = pixels[:, 0, 28], pixels[:, 1, :, 28]
        return torch.stack([red[:, 0], red[:, -1], green[:, 0], green[:, -1]], 1)

    center = torch.tensor([17.5, 237.5, 17.5, 237.5]).expand(50, 4)  # pixels 16 to 239, averaged over four pixels
    assert torch.allclose(edges(data.held_out.between(0, 50)[0]), center, atol=1)
    assert torch.allclose(edges(batches(data.train, 200, augment="none")[0][0])[:50], center, atol=1)

    cropped = edges(batches(data.train, 200)[0][0])
    mirrored = cropped[:, 0] > cropped[:, 1]
    assert 70 < mirrored.sum() < 130
    assert bool((cropped[:, 2] < cropped[:, 3]).all())
    heights = cropped[:, 3] - cropped[:, 2]
    assert heights.min() < 100
    assert heights.max() > 200
    shifted = edges(batches(data.train, 200, augment="shift")[0][0])
    assert not (shifted[:, 0] > shifted[:, 1] + 1).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_smallest_and_narrowest_images_can_be_cropped(tmp_path: Path, size: tuple[int, int]) -> None:
    make_classes(tmp_path)
    for number in range(10):
        PIL.Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "train" / "ab"[number % 2] / f"{number}.png")
    data = load_data(spec(tmp_path), "cpu")
    for images, _ in (data.held_out.between(0, 2), batches(data.train, 8)[0]):
        assert bool((images == images[:1, :, :1, :1]).all())


def test_two_batches_are_decoded_in_advance(folder: Path, load: Callable[..., Any]) -> None:
    data = load(folder, resolution=128)
    key, part = BatchKey("crop_flip", 7, 16, 0, 0), data.train
    assert isinstance(part, streaming.StreamedPart)
    tracemalloc.start()
    pending = []
    for batch in range(12):
        part.batch(replace(key, batch=batch))
        pending.append(part.pending_images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pending == [32] * 10 + [16, 0]
    assert peak < 6 * 16 * 128 * 128 * 3  # the arrays of at most 6 of the 12 batches
    part.batch(replace(key, seed=8))
    assert part.pending_images == 32
    part.between(0, 60)
    assert part.pending_images == 120
    part.between(160, 192)
    assert part.pending_images == 0


def test_invalid_number_of_threads_is_reported(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "many")
    with pytest.raises(DataError, match="EATNAS_DECODE_THREADS is 'many'"):
        load_data(spec(folder), "cpu")


TAKE_ONE_BATCH = """
import json, os, sys
from eatnas_training.data.batches import BatchKey
from eatnas_training.data.loading import load_data
data = load_data(json.loads(sys.argv[1]), "cpu")
os.unlink(sys.argv[2])
os.mkfifo(sys.argv[2])  # reading it blocks, since nothing writes to it
data.train.batch(BatchKey("crop_flip", 7, 32, 0, 0))
"""


@pytest.mark.slow
def test_interpreter_exits_while_an_image_is_being_read(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    command = [sys.executable, "-c", TAKE_ONE_BATCH, json.dumps(spec(copied)), str(image_in_batch(copied, 1))]
    subprocess.run(command, check=True, timeout=300)


def image_in_batch(root: Path, batch: int) -> Path:
    """Return the path of an image in a batch of 32 images, in the first epoch with the seed 7."""
    files = list_streamed_files(spec(root))
    assert files is not None
    return Path(files.train.paths[epoch_order(192, 7, 0).tolist()[batch * 32 + 3]])


def assign(root: Path, folder: Path, candidate: int = 1, attempt: int = 1, **training: Any) -> Assign:
    return Assign(
        candidate=candidate,
        attempt=attempt,
        code=CODE,
        macro=asdict(PRESETS["eatnas-tiny"]),
        task=asdict(Task(SIDE, 3, CLASSES)),
        data=spec(root),
        training={"epochs": 2, "batch_size": 32, "learning_rate": 0.1, **training},
        seed=7,
        checkpoint_folder=str(folder / f"checkpoints-{candidate}"),
        log_file=str(folder / "log"),
    )


@pytest.mark.slow
def test_training_resumes_within_an_epoch_with_the_same_metrics(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    uninterrupted = run_training(assign(folder, tmp_path))
    finished(uninterrupted)
    released = run_training(assign(folder, tmp_path, candidate=2), after_calls(4, StopRequest.RELEASE))
    assert isinstance(released[-1], Released)
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    resumed = run_training(assign(folder, tmp_path, candidate=2, attempt=2))
    report = resumed.only(Resumed)
    assert (report.epoch, report.batch) == (0, 3)
    assert epoch_metrics(resumed) == epoch_metrics(uninterrupted)
    assert len(epoch_metrics(resumed)) == 2


@pytest.mark.slow
def test_network_learns_streamed_images(folder: Path, tmp_path: Path) -> None:
    assert finished(run_training(assign(folder, tmp_path, epochs=4, batch_size=16))).accuracy > 0.9


@pytest.mark.parametrize("damage", ["garbage", "truncated", "missing"])
def test_unreadable_image_fails_the_training_with_its_path(folder: Path, tmp_path: Path, damage: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    assignment = assign(copied, tmp_path)
    path = image_in_batch(copied, 5)
    if damage == "missing":
        load_data(assignment.data, "cpu")
        path.unlink()
    else:
        path.write_bytes(b"no image" if damage == "garbage" else path.read_bytes()[:300])
    reports = run_training(assignment)
    failure = failed(reports)
    assert failure.kind == "unreadable_data"
    assert str(path) in failure.message
    assert "\n" not in failure.message
    assert failure.device_seconds > 0
    assert epoch_metrics(reports) == []
