"""Final models: trained on training and validation images, and looked at once on the test part."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished, Phase, Released, Report
from eatnas_training import loop, prepare
from eatnas_training.data import datasets, streamed_files
from eatnas_training.worker_protocol import StopRequest

Make = Callable[..., Assign]
DIGITS = {"name": "digits", "train_images": 256, "validation_images": 100}


def train(assign: Assign, release_at: int | None = None) -> list[Report]:
    asked = count(1)
    return list(loop.train(assign, lambda: StopRequest.RELEASE if next(asked) == release_at else StopRequest.NONE))


def rows(reports: list[Report]) -> list[EpochDone]:
    return [replace(one, attempt=0, seconds=0, ended_at=0) for one in reports if isinstance(one, EpochDone)]


def write_images(folder: Path, classes: str, each: int = 6) -> None:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            PIL.Image.new("RGB", (8, 8), (shade * 60, number, 0)).save(folder / name / f"{number}.png")


def test_it_sees_train_then_validation_images_and_the_test_part_apart() -> None:
    ordinary, final = datasets.load_training(DIGITS), datasets.load_final(DIGITS)
    both = np.concatenate((ordinary.train.images, ordinary.validation.images))
    assert np.array_equal(final.train.images, both)
    assert np.array_equal(final.test.images, datasets.load_test(DIGITS).images)
    assert final.digest != ordinary.digest
    assert prepare.describe_final(DIGITS) == {"train_images": 356, "test_images": 360}


def test_the_test_part_is_measured_once_after_the_last_epoch(assignment: Make) -> None:
    reports = train(replace(assignment(epochs=3), final_model=True))
    phases = [one.phase for one in reports if isinstance(one, Phase)]
    assert phases[-1] == "testing"
    assert (phases.count("testing"), phases.count("validating")) == (1, 0)
    assert [(row.val_loss, row.val_accuracy) for row in rows(reports)] == [(None, None)] * 3
    last = reports[-1]
    assert isinstance(last, Finished)
    assert last.accuracy * 360 == pytest.approx(round(last.accuracy * 360))  # of all test images


@pytest.mark.parametrize("where", ["in the middle", "while it is tested"])
def test_one_that_was_stopped_comes_to_the_same_figures(assignment: Make, where: str) -> None:
    whole = train(replace(assignment(), final_model=True))
    stopping = replace(assignment(), final_model=True)
    asked = 2 * (356 // 64) + 1
    stopped = train(stopping, release_at=asked // 2 if where == "in the middle" else asked)
    assert isinstance(stopped[-1], Released)
    assert ("testing" in [one.phase for one in stopped if isinstance(one, Phase)]) == (where != "in the middle")
    resumed = train(replace(stopping, attempt=2))
    assert rows(resumed) == rows(whole)
    ends = [one for one in (whole[-1], resumed[-1]) if isinstance(one, Finished)]
    assert len({(one.accuracy, one.loss, one.data_digest) for one in ends}) == 1 < len(ends)


def test_without_test_files_a_search_goes_on_and_a_final_model_says_so_in_one_line(
    assignment: Make, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 28, 28), np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">BBBB3I", 0, 0, 8, 3, 80, 28, 28) + pixels.tobytes()
    )
    labels = bytes(number % 10 for number in range(80))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 80) + labels)
    data = {"name": "FashionMNIST", "root": str(tmp_path), "resolution": 8}
    assign = assignment(data=data, epochs=1)
    assert isinstance(train(assign)[-1], Finished)
    failed = train(replace(assign, final_model=True))[-1]
    assert isinstance(failed, Failed)
    assert failed.kind == "unreadable_data"
    assert failed.message.startswith(f"FashionMNIST: no t10k-images-idx3-ubyte in {tmp_path}")
    assert "\n" not in failed.message


@pytest.mark.parametrize("streams", [False, True])
def test_a_folder_wants_a_test_part_of_the_same_classes(
    assignment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    if streams:
        monkeypatch.setattr(datasets, "RESIDENT_BYTES", 100)
        monkeypatch.setattr(streamed_files, "RESIDENT_BYTES", 100)
    data = {"name": "ImageFolder", "root": str(tmp_path), "resolution": 8}
    write_images(tmp_path / "train", "abc")
    with pytest.raises(DataError, match=r"val has no class folders"):
        prepare.describe_final(data)
    write_images(tmp_path / "val", "ab", each=2)
    with pytest.raises(DataError, match=r"must have the same classes; only one has 'c'"):
        prepare.describe_final(data)
    write_images(tmp_path / "val2", "c", each=2)
    (tmp_path / "val2" / "c").rename(tmp_path / "val" / "c")
    assert prepare.describe_final(data) == {"train_images": 18, "test_images": 6}
    task = {"resolution": 8, "channels": 3, "classes": 3}
    last = train(replace(assignment(data=data, epochs=1, batch_size=8), task=task, final_model=True))[-1]
    assert isinstance(last, Finished)
    assert last.accuracy * 6 == pytest.approx(round(last.accuracy * 6))
