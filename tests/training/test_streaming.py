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
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished, Released, Report, Resumed
from eatnas_training import loop, prepare
from eatnas_training.data import datasets, streaming
from eatnas_training.data.batches import BatchKey, DataPart, LoadedData, epoch_order
from eatnas_training.data.loading import THREADS_VARIABLE, load_data
from eatnas_training.data.resident import ResidentPart
from eatnas_training.data.streamed_files import list_streamed_files
from eatnas_training.worker_protocol import StopRequest

CLASSES, EACH, SIDE = 3, 80, 16
CODE: list[list[int | float]] = [[0, 1, 1, 1, 0.5], [1, 0, 1, 0, 0.5]] * 3 + [[2, 0, 1, 0, 0.5]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ImageNet: 240 JPEGs of many shapes, a colour for each class."""
    root = tmp_path_factory.mktemp("imagenet")
    chance = np.random.default_rng(0)
    for label in range(CLASSES):
        below = root / "train" / f"n0{label}"
        below.mkdir(parents=True)
        for number in range(EACH):
            height, width = chance.integers(20, 60, 2)
            pixels = chance.integers(0, 80, (height, width, 3)).astype(np.uint8)
            pixels[:, :, label] += 150
            PIL.Image.fromarray(pixels).save(below / f"{number}.JPEG", quality=80)
    return root


def spec(root: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "ImageNet", "root": str(root), "resolution": SIDE, **changes}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedData]:
    """Loads afresh, with so many threads."""

    def loaded(root: Path, threads: int = 2, **changes: Any) -> LoadedData:
        monkeypatch.setenv(THREADS_VARIABLE, str(threads))
        return load_data(spec(root, **changes), "cpu")

    return loaded


def batches(part: DataPart, size: int = 16, **changes: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    key = BatchKey(**{"augment": "crop_flip", "seed": 7, "size": size, "epoch": 0, "batch": 0, **changes})
    return [part.batch(replace(key, batch=batch)) for batch in range(key.batch, len(part.labels) // size)]


def assert_same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> None:
    for pair in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_what_streams_is_described_without_opening_an_image(folder: Path, tmp_path: Path) -> None:
    described = prepare.describe(spec(folder))
    assert (described["train_images"], described["validation_images"]) == (192, 48)
    assert (described["resolution"], described["channels"], described["classes"]) == (SIDE, 3, CLASSES)
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(10):
        (tmp_path / "train" / "a" / f"{number}.JPEG").write_bytes(b"no image")
    assert prepare.describe(spec(tmp_path, resolution=None))["resolution"] == 224


def test_the_digest_names_paths_and_sizes_the_split_and_the_side(folder: Path, tmp_path: Path) -> None:
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


def test_a_folder_of_ones_own_streams_only_if_it_is_too_large_to_lie_in_memory(folder: Path) -> None:
    small = spec(folder, name="ImageFolder")
    assert list_streamed_files(small) is None
    assert isinstance(load_data(small, "cpu").train, ResidentPart)
    # 240 images of 1024 x 1024 in three colours: not a gigabyte; of 1300: more.
    assert list_streamed_files({**small, "resolution": 1024}) is None
    assert list_streamed_files({**small, "resolution": 1300}) is not None
    with pytest.raises(DataError, match="do not fit into 1024 MiB at 1300"):
        datasets.load_training({**small, "resolution": 1300})


def test_a_batch_has_the_same_bits_with_one_thread_and_with_three(folder: Path, load: Callable[..., Any]) -> None:
    one, three = load(folder, 1), load(folder, 3)
    assert one is not three
    assert_same(batches(one.train), batches(three.train))
    count = len(one.held_out.labels)
    assert_same(
        *([data.held_out.between(at, min(at + 20, count)) for at in range(0, count, 20)] for data in (one, three))
    )


def test_a_batch_is_a_function_of_its_key_alone(folder: Path, load: Callable[..., Any]) -> None:
    data = load(folder)
    whole = batches(data.train)
    data.held_out.between(0, 48)
    batches(data.train, epoch=1)
    assert_same(whole[5:], batches(data.train, batch=5))
    images, labels = whole[0]
    for changes in ({"seed": 8}, {"epoch": 1}, {"augment": "shift"}, {"augment": "none"}):
        assert not torch.equal(batches(data.train, **changes)[0][0], images)
    assert torch.equal(batches(data.train, augment="none")[0][1], labels)


def test_every_epoch_takes_every_image_once_with_its_own_label(folder: Path, load: Callable[..., Any]) -> None:
    data = load(folder)
    for epoch in (0, 1):
        taken = batches(data.train, epoch=epoch)
        assert len(taken) == 12
        for images, labels in taken:
            assert torch.equal(images.mean((2, 3)).argmax(1), labels)
        assert sorted(torch.cat([labels for _, labels in taken]).tolist()) == sorted(data.train.labels.tolist())


def test_batches_are_floats_of_imagenets_mean_and_deviation_channels_last(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(10):
        PIL.Image.new("RGB", (30, 40), (0, 128, 255)).save(tmp_path / "train" / "a" / f"{number}.png")
    data = load_data(spec(tmp_path), "cpu")
    expected = (torch.tensor([0, 128, 255]) / 255 - torch.tensor(streaming.MEAN)) / torch.tensor(streaming.DEVIATION)
    for images, labels in (data.held_out.between(0, 2), batches(data.train, 4)[0]):
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.allclose(images, expected.reshape(1, 3, 1, 1).expand_as(images), atol=1e-4)


def test_validation_sees_the_middle_and_training_crops_and_mirrors(tmp_path: Path) -> None:
    # Red grows from left to right, green from top to bottom: a pixel tells where it was.
    (tmp_path / "train" / "a").mkdir(parents=True)
    grid = np.zeros((256, 256, 3), np.uint8)
    grid[:, :, 0], grid[:, :, 1] = np.arange(256), np.arange(256)[:, None]
    wide = np.pad(grid, ((0, 0), (100, 100), (0, 0)), mode="edge")
    for number in range(250):
        PIL.Image.fromarray(wide if number % 2 else grid).save(tmp_path / "train" / "a" / f"{number}.png")
    data = load_data(spec(tmp_path, resolution=56), "cpu")
    scale, mean = (torch.tensor(values).reshape(1, 3, 1, 1) * 255 for values in (streaming.DEVIATION, streaming.MEAN))

    def places(images: torch.Tensor) -> torch.Tensor:
        """Red of the left and right edges, green of the upper and lower: `[B, 4]`."""
        pixels = images * scale + mean
        red, green = pixels[:, 0, 28], pixels[:, 1, :, 28]
        return torch.stack([red[:, 0], red[:, -1], green[:, 0], green[:, -1]], 1)

    middle = torch.tensor([17.5, 237.5, 17.5, 237.5]).expand(50, 4)  # pixels 16 to 239, four of them in one
    assert torch.allclose(places(data.held_out.between(0, 50)[0]), middle, atol=1)
    assert torch.allclose(places(batches(data.train, 200, augment="none")[0][0])[:50], middle, atol=1)

    cropped = places(batches(data.train, 200)[0][0])
    mirrored = cropped[:, 0] > cropped[:, 1]
    assert 70 < mirrored.sum() < 130
    assert bool((cropped[:, 2] < cropped[:, 3]).all())
    heights = cropped[:, 3] - cropped[:, 2]
    assert heights.min() < 100
    assert heights.max() > 200
    shifted = places(batches(data.train, 200, augment="shift")[0][0])
    assert not (shifted[:, 0] > shifted[:, 1] + 1).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_the_smallest_and_narrowest_images_have_crops_too(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(10):
        PIL.Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "train" / "a" / f"{number}.png")
    data = load_data(spec(tmp_path), "cpu")
    for images, _ in (data.held_out.between(0, 2), batches(data.train, 8)[0]):
        assert bool((images == images[:1, :, :1, :1]).all())


def test_no_more_than_two_batches_are_decoded_in_advance(folder: Path, load: Callable[..., Any]) -> None:
    data = load(folder, resolution=128)
    key, part = BatchKey("crop_flip", 7, 16, 0, 0), data.train
    assert isinstance(part, streaming.StreamedPart)
    tracemalloc.start()
    begun = []
    for batch in range(12):
        part.batch(replace(key, batch=batch))
        begun.append(part.pending_images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert begun == [32] * 10 + [16, 0]
    assert peak < 6 * 16 * 128 * 128 * 3  # the epoch is twelve batches; NumPy's arrays are traced, torch's are not
    part.batch(replace(key, seed=8))
    assert part.pending_images == 32
    part.between(0, 60)
    assert part.pending_images == 120
    part.between(160, 192)
    assert part.pending_images == 0


def test_a_number_of_threads_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "many")
    with pytest.raises(DataError, match="EATNAS_DECODE_THREADS is 'many'"):
        load_data(spec(folder), "cpu")


TAKE_ONE_BATCH = """
import json, sys
from eatnas_training.data.batches import BatchKey
from eatnas_training.data.loading import load_data
data = load_data(json.loads(sys.argv[1]), "cpu")
data.train.batch(BatchKey("crop_flip", 7, 32, 0, 0))
"""


@pytest.mark.slow
def test_an_interpreter_exits_at_once_though_images_are_still_being_read(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    path = in_batch(copied, 1)
    path.unlink()
    os.mkfifo(path)  # reading it never ends, for nobody writes
    command = [sys.executable, "-c", TAKE_ONE_BATCH, json.dumps(spec(copied))]
    subprocess.run(command, check=True, timeout=60)


def in_batch(root: Path, batch: int) -> Path:
    """An image of that batch of the first epoch, under the seed 7 and in batches of 32."""
    found = list_streamed_files(spec(root))
    assert found is not None
    return Path(found.train.paths[epoch_order(192, 7, 0).tolist()[batch * 32 + 3]])


# Whole trainings.


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


def train(assignment: Assign, calls: int = 10**9) -> list[Report]:
    """Everything that a training reports; it is told to stop at that many calls."""
    count = iter(range(calls))
    return list(
        loop.train(assignment, lambda: StopRequest.NONE if next(count, None) is not None else StopRequest.RELEASE)
    )


def rows(reports: list[Report]) -> list[EpochDone]:
    found = [report for report in reports if isinstance(report, EpochDone)]
    return [replace(row, candidate=0, attempt=0, seconds=0, ended_at=0) for row in found]


def test_a_training_that_goes_on_inside_an_epoch_has_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    whole = train(assign(folder, tmp_path))
    assert isinstance(whole[-1], Finished)
    stopped = train(assign(folder, tmp_path, candidate=2), calls=3)
    assert isinstance(stopped[-1], Released)
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    resumed = train(assign(folder, tmp_path, candidate=2, attempt=2))
    assert [(at.epoch, at.batch) for at in resumed if isinstance(at, Resumed)] == [(0, 3)]
    assert rows(resumed) == rows(whole)
    assert len(rows(whole)) == 2


def test_streamed_images_are_learned(folder: Path, tmp_path: Path) -> None:
    last = train(assign(folder, tmp_path, epochs=4, batch_size=16))[-1]
    assert isinstance(last, Finished)
    assert last.accuracy > 0.9


@pytest.mark.parametrize("damage", ["garbage", "cut", "gone"])
def test_an_unreadable_image_in_the_middle_of_an_epoch_fails_with_its_name(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    assignment = assign(copied, tmp_path)
    path = in_batch(copied, 5)
    if damage == "gone":
        load_data(assignment.data, "cpu")
        path.unlink()
    else:
        path.write_bytes(b"no image" if damage == "garbage" else path.read_bytes()[:300])
    reports = train(assignment)
    last = reports[-1]
    assert isinstance(last, Failed)
    assert last.kind == "unreadable_data"
    assert str(path) in last.message
    assert "\n" not in last.message
    assert last.device_seconds > 0
    assert rows(reports) == []
