"""Final models are trained on training and validation images, and evaluated once on the test images."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from eatnas_db.checkpoint_files import has_digest
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Checkpointed, Phase, Released
from eatnas_training import prepare
from eatnas_training.data import datasets, streamed_files
from eatnas_training.worker_protocol import StopRequest
from support.trainings import MakeAssignment, epoch_metrics, failed, finished, run_training

DIGITS = {"name": "digits", "train_images": 256, "validation_images": 100}


def write_images(folder: Path, classes: str, each: int = 6) -> None:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            PIL.Image.new("RGB", (8, 8), (shade * 60, number, 0)).save(folder / name / f"{number}.png")


def test_final_data_joins_training_and_validation_images() -> None:
    search, final = datasets.load_training(DIGITS), datasets.load_final(DIGITS)
    joined = np.concatenate((search.train.images, search.validation.images))
    assert np.array_equal(final.train.images, joined)
    assert np.array_equal(final.test.images, datasets.load_test(DIGITS).images)
    assert final.digest != search.digest
    assert prepare.describe_final(DIGITS) == {"train_images": 356, "test_images": 360}


def test_test_images_are_evaluated_once_after_the_last_epoch(assignment: MakeAssignment) -> None:
    reports = run_training(replace(assignment(epochs=3), final_model=True))
    phases = [report.phase for report in reports.of(Phase)]
    assert phases[-1] == "testing"
    assert (phases.count("testing"), phases.count("validating")) == (1, 0)
    assert [(report.val_loss, report.val_accuracy) for report in epoch_metrics(reports)] == [(None, None)] * 3
    correct = finished(reports).accuracy * 360
    assert correct == pytest.approx(round(correct))


@pytest.mark.parametrize("phase", ["training", "testing"])
def test_resumed_final_model_has_the_same_metrics(assignment: MakeAssignment, phase: str) -> None:
    uninterrupted = run_training(replace(assignment(), final_model=True))
    assign = replace(assignment(), final_model=True)
    batches = 2 * (356 // 64)
    calls, release_at = count(1), batches // 2 if phase == "training" else batches + 2
    released = run_training(assign, lambda: StopRequest.RELEASE if next(calls) == release_at else StopRequest.NONE)
    assert isinstance(released[-1], Released)
    assert ("testing" in [report.phase for report in released.of(Phase)]) == (phase == "testing")
    for saved in released.of(Checkpointed):
        assert has_digest(Path(assign.checkpoint_folder, saved.path), saved.digest)
    resumed = run_training(replace(assign, attempt=2))
    assert epoch_metrics(resumed) == epoch_metrics(uninterrupted)
    first, second = finished(uninterrupted), finished(resumed)
    assert (first.accuracy, first.loss, first.data_digest) == (second.accuracy, second.loss, second.data_digest)


def test_only_final_models_need_test_files(assignment: MakeAssignment, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 28, 28), np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">BBBB3I", 0, 0, 8, 3, 80, 28, 28) + pixels.tobytes()
    )
    labels = bytes(number % 10 for number in range(80))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 80) + labels)
    data = {"name": "FashionMNIST", "root": str(tmp_path), "resolution": 8}
    assign = assignment(data=data, epochs=1)
    finished(run_training(assign))
    failure = failed(run_training(replace(assign, final_model=True)))
    assert failure.kind == "unreadable_data"
    assert failure.message.startswith(f"FashionMNIST: no t10k-images-idx3-ubyte in {tmp_path}")
    assert "\n" not in failure.message


@pytest.mark.parametrize("streamed", [False, True])
def test_test_folder_must_have_the_same_classes(
    assignment: MakeAssignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    if streamed:
        monkeypatch.setattr(datasets, "RESIDENT_BYTES", 100)
        monkeypatch.setattr(streamed_files, "RESIDENT_BYTES", 100)
    data = {"name": "ImageFolder", "root": str(tmp_path), "resolution": 8}
    write_images(tmp_path / "train", "abc")
    with pytest.raises(DataError, match=r"val has no class folders"):
        prepare.describe_final(data)
    write_images(tmp_path / "val", "ab", each=2)
    with pytest.raises(DataError, match=r"must have the same classes; only one of them has 'c'"):
        prepare.describe_final(data)
    write_images(tmp_path / "val2", "c", each=2)
    (tmp_path / "val2" / "c").rename(tmp_path / "val" / "c")
    assert prepare.describe_final(data) == {"train_images": 18, "test_images": 6}
    task = {"resolution": 8, "channels": 3, "classes": 3}
    assign = replace(assignment(data=data, epochs=1, batch_size=8), task=task, final_model=True)
    correct = finished(run_training(assign)).accuracy * 6
    assert correct == pytest.approx(round(correct))
