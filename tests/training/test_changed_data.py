from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_protocol.messages import Assign
from eatnas_training import prepare
from eatnas_training.data.loading import load_data
from support.trainings import failed, finished, run_training

SIDE = 8
CODE: list[list[int | float]] = [[0, 1, 1, 1, 0.5], [1, 0, 1, 0, 0.5]] * 3 + [[2, 0, 1, 0, 0.5]]
RESIDENT, STREAMED = "ImageFolder", "ImageNet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        for part in ("train", "val"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for number in range(20):
                color = (number * 10, 200 if label == "cat" else 0, 0)
                PIL.Image.new("RGB", (12, 12), color).save(tmp_path / "data" / part / label / f"{number}.bmp")
    return tmp_path / "data"


def spec(root: Path, name: str) -> dict[str, Any]:
    return {"name": name, "root": str(root), "resolution": SIDE, "cache": str(root.parent / "cache")}


def state(root: Path, name: str, *, verified: bool = False) -> DataState:
    described = (prepare.verify if verified else prepare.describe)(spec(root, name))
    return DataState(described["data_digest"], described["files_digest"], described["content_digest"])


def assign(root: Path, name: str, at_creation: DataState | None, **changes: Any) -> Assign:
    # Replace the images that are cached in memory, which a new worker does not have.
    load_data({"name": "digits"}, "cpu")
    return Assign(
        candidate=1,
        attempt=1,
        code=CODE,
        macro=asdict(PRESETS["eatnas-tiny"]),
        task=asdict(Task(SIDE, 3, 2)),
        data=spec(root, name),
        training={"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
        seed=7,
        checkpoint_folder=str(root.parent / "checkpoints"),
        log_file=str(root.parent / "log"),
        data_state=None if at_creation is None else asdict(at_creation),
        **changes,
    )


def change(root: Path, kind: str) -> None:
    path = root / "train" / "cat" / "3.bmp"
    status = path.stat()
    if kind == "added":
        shutil.copy2(path, root / "train" / "dog" / "new.bmp")
    elif kind == "deleted":
        path.unlink()
    elif kind == "renamed":
        path.rename(path.with_name("z.bmp"))
    elif kind == "moved":
        path.rename(root / "train" / "dog" / "moved.bmp")
    elif kind == "class renamed":
        path.parent.rename(root / "train" / "zebra")
    elif kind == "bytes":
        path.write_bytes(path.read_bytes()[:-9] + b"\x01" * 9)
    elif kind == "bytes, same time":
        path.write_bytes(path.read_bytes()[:-9] + b"\x01" * 9)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif kind == "time":
        os.utime(path, (1, 1))


def assert_both_digests_are_named(message: str, before: DataState, after: DataState) -> None:
    named = set(re.findall("[0-9a-f]{64}", message))
    assert len(named) == 2
    assert len(named & {value for value in asdict(before).values() if value}) == 1
    assert len(named & {value for value in asdict(after).values() if value}) == 1
    assert "have changed since the search was created" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [RESIDENT, STREAMED])
@pytest.mark.parametrize("kind", ["added", "deleted", "moved", "bytes"])
def test_changed_images_fail_with_both_digests(root: Path, name: str, kind: str) -> None:
    before = state(root, name)
    change(root, kind)
    failure = failed(run_training(assign(root, name, before)))
    assert failure.kind == "unreadable_data"
    assert_both_digests_are_named(failure.message, before, state(root, name))


def test_renamed_streamed_images_fail_with_both_digests(root: Path) -> None:
    before = state(root, STREAMED)
    change(root, "renamed")
    assert_both_digests_are_named(
        failed(run_training(assign(root, STREAMED, before))).message, before, state(root, STREAMED)
    )


@pytest.mark.parametrize("name", [RESIDENT, STREAMED])
def test_unchanged_and_copied_images_are_accepted(root: Path, name: str) -> None:
    before = state(root, name)
    copied = shutil.copytree(root, root.parent / "copied" / "data")
    finished(run_training(assign(copied, name, before)))


def test_other_modification_times_change_only_streamed_images(root: Path) -> None:
    resident, streamed = state(root, RESIDENT), state(root, STREAMED)
    change(root, "time")
    finished(run_training(assign(root, RESIDENT, resident)))
    message = failed(run_training(assign(root, STREAMED, streamed))).message
    assert_both_digests_are_named(message, streamed, state(root, STREAMED))
    assert "though names and sizes are the same" in message


def test_verified_bytes_outweigh_modification_times(root: Path) -> None:
    before = state(root, STREAMED, verified=True)
    assert before.content_digest is not None
    change(root, "time")
    failed(run_training(assign(root, STREAMED, before)))
    assert state(root, STREAMED, verified=True).content_digest == before.content_digest
    finished(run_training(assign(root, STREAMED, before)))


def test_verification_finds_other_bytes_with_an_unchanged_time(root: Path) -> None:
    before = state(root, STREAMED, verified=True)
    change(root, "bytes, same time")
    assert state(root, STREAMED) == before  # nothing but the bytes has changed
    after = state(root, STREAMED, verified=True)
    assert before.describe_change(after) is not None
    message = failed(run_training(assign(root, STREAMED, before))).message
    assert_both_digests_are_named(message, before, after)


def test_final_training_compares_the_images_of_the_search(root: Path) -> None:
    for name in (RESIDENT, STREAMED):
        before = state(root, name)
        finished(run_training(assign(root, name, before, final_model=True)))
    change(root, "deleted")
    for name in (RESIDENT, STREAMED):
        failed(run_training(assign(root, name, before, final_model=True)))


def test_restored_images_are_accepted_by_the_same_worker(root: Path) -> None:
    before = state(root, RESIDENT)
    path = root / "train" / "cat" / "3.bmp"
    path.rename(root / "away")
    assignment = assign(root, RESIDENT, before)
    failed(run_training(assignment))
    (root / "away").rename(path)
    finished(run_training(assignment))


def test_image_that_changes_during_the_training_is_named(root: Path) -> None:
    assignment = assign(root, STREAMED, state(root, STREAMED))
    load_data(assignment.data, "cpu")
    change(root, "bytes")
    assert "3.bmp has changed since this worker listed the images" in failed(run_training(assignment)).message
    assert "have changed since the search was created" in failed(run_training(assignment)).message


def test_search_without_a_recorded_state_compares_nothing(root: Path) -> None:
    state(root, RESIDENT)
    change(root, "bytes")
    finished(run_training(assign(root, RESIDENT, None)))
