from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign, Phase, Released
from eatnas_training import prepare
from eatnas_training.data import datasets, streamed_files
from eatnas_training.data.folder_cache import read_folder
from eatnas_training.data.folder_content import LoadProgress, run_to_end
from eatnas_training.data.image_folder import list_training_folder
from eatnas_training.data.loading import load_data
from eatnas_training.worker_protocol import StopRequest
from support.trainings import after_calls, finished, run_training

SIDE = 8
CODE: list[list[int | float]] = [[0, 1, 1, 1, 0.5], [1, 0, 1, 0, 0.5]] * 3 + [[2, 0, 1, 0, 0.5]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (16, 12, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


def spec(root: Path, **changes: Any) -> dict[str, Any]:
    data = {"name": "ImageFolder", "root": str(root), "resolution": SIDE, "cache": str(root.parent / "cache")}
    return {**data, **changes}


def entries(root: Path, suffix: str = "*") -> list[Path]:
    return sorted((root.parent / "cache" / "images").glob(f"*.{suffix}"))


def steps(data: dict[str, Any]) -> Iterator[LoadProgress]:
    return datasets.training_steps(data)


def test_folder_is_decoded_once_and_mapped_afterwards(root: Path) -> None:
    first = datasets.load_training(spec(root))
    assert first.digest == datasets.load_training(spec(root, cache=None)).digest
    (stored,) = entries(root, "npy")
    assert np.load(stored).shape == (40, 3, SIDE, SIDE)
    assert list(steps(spec(root))) == []  # nothing to decode
    assert datasets.load_training(spec(root, split_seed=1)).digest != first.digest
    assert entries(root, "npy") == [stored]
    assert list(steps(spec(root, resolution=9)))


def test_changed_folder_is_decoded_again(root: Path) -> None:
    first = datasets.load_training(spec(root))
    os.utime(root / "cat" / "3.png", (1, 1))
    assert datasets.load_training(spec(root)).digest == first.digest
    PIL.Image.new("RGB", (16, 12), (1, 2, 3)).save(root / "cat" / "3.png")
    assert datasets.load_training(spec(root)).digest != first.digest
    assert len(entries(root, "npy")) == 2


@pytest.mark.parametrize("damage", ["cut", "missing", "no json"])
def test_damaged_entry_is_replaced(root: Path, damage: str) -> None:
    first = datasets.load_training(spec(root))
    (images,), (content,) = entries(root, "npy"), entries(root, "json")
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:100])
    elif damage == "missing":
        images.unlink()
    else:
        content.write_text("{")
    assert datasets.load_training(spec(root)).digest == first.digest
    assert list(steps(spec(root))) == []


def test_only_the_last_two_states_of_a_folder_are_kept(root: Path) -> None:
    datasets.load_training(spec(root, resolution=9))
    for number in range(4):
        os.utime(root / "cat" / "3.png", (number, number))
        datasets.load_training(spec(root))
    assert len(entries(root, "npy")) == len(entries(root, "json")) == 3
    os.utime(root / "cat" / "3.png", (2, 2))
    assert list(steps(spec(root))) == []


def test_second_process_waits_for_the_first(root: Path) -> None:
    datasets.load_training(spec(root))
    (lock,), (content,) = entries(root, "lock"), entries(root, "json")
    stored = content.read_bytes()
    content.unlink()
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = steps(spec(root))
        assert next(waiting) == LoadProgress(0, 40, waiting=True)
        assert "another process" in next(waiting).describe()
        content.write_bytes(stored)
    assert list(waiting) == []


DECODE_UNTIL_KILLED = """
import json, os, signal, sys
from eatnas_training.data import datasets
for progress in datasets.training_steps(json.loads(sys.argv[1])):
    if progress.done == progress.total:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_process_leaves_no_entry(root: Path) -> None:
    command = [sys.executable, "-c", DECODE_UNTIL_KILLED, json.dumps(spec(root))]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [len(entries(root, suffix)) for suffix in ("partial", "npy", "json")] == [1, 0, 0]
    datasets.load_training(spec(root))
    assert [len(entries(root, suffix)) for suffix in ("partial", "npy", "json")] == [0, 1, 1]


def test_cache_that_cannot_be_written_is_no_error(root: Path) -> None:
    first = datasets.load_training(spec(root, cache=None))
    (root.parent / "cache").write_text("a file")
    assert datasets.load_training(spec(root)).digest == first.digest


def test_cache_that_is_deleted_meanwhile_stays_mapped(root: Path) -> None:
    mapped = run_to_end(read_folder(root.parent / "cache", list_training_folder(root, "ImageFolder"), "digest", SIDE))
    shutil.rmtree(root.parent / "cache")
    assert mapped.images is not None
    assert mapped.images.any()
    again = run_to_end(read_folder(root.parent / "cache", list_training_folder(root, "ImageFolder"), "digest", SIDE))
    assert again.images is not None
    assert np.array_equal(mapped.images, again.images)


def assign(root: Path, **changes: Any) -> Assign:
    return Assign(
        candidate=1,
        attempt=1,
        code=CODE,
        macro=asdict(PRESETS["eatnas-tiny"]),
        task=asdict(Task(SIDE, 3, 2)),
        data=spec(root, **changes),
        training={"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
        seed=7,
        checkpoint_folder=str(root.parent / "checkpoints"),
        log_file=str(root.parent / "log"),
    )


def test_worker_reports_while_it_decodes_and_stops_on_request(root: Path) -> None:
    reports = run_training(assign(root), after_calls(1, StopRequest.RELEASE))
    assert isinstance(reports[-1], Released)
    reports = run_training(assign(root))
    assert [report.phase for report in reports.of(Phase)].count("loading") >= 2
    finished(reports)


def test_several_unreadable_images_are_named_together(root: Path) -> None:
    for number in range(5):
        (root / "cat" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError) as raised:
        datasets.load_training(spec(root))
    message = str(raised.value)
    assert message.startswith(f"5 of 40 images in {root} cannot be read: {root}/cat/0.png is not a readable image")
    assert message.endswith("and 2 more; replace or delete them, or set data.on_unreadable to skip")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["ImageFolder", "ImageNet"])
def test_skipped_images_change_split_and_digest(root: Path, tmp_path: Path, name: str) -> None:
    if name == "ImageNet":
        root.rename(tmp_path / "train")
        (tmp_path / "data").mkdir()
        root = (tmp_path / "train").rename(tmp_path / "data" / "train").parent
    data = spec(root, name=name, on_unreadable="skip")
    below = root / "train" if name == "ImageNet" else root
    whole = prepare.describe(data)
    assert whole["data_digest"] == prepare.describe({**data, "on_unreadable": "fail"})["data_digest"]
    (below / "cat" / "3.png").write_bytes((below / "cat" / "3.png").read_bytes()[:60])
    (below / "dog" / "broken.png").symlink_to("nowhere")
    described = prepare.describe(data)
    assert (described["train_images"], described["validation_images"]) == (32, 7)
    assert described["data_digest"] != whole["data_digest"]
    assert described["data_digest"] == prepare.describe({**data, "cache": None})["data_digest"]
    loaded = load_data(data, "cpu")
    assert loaded.digest == described["data_digest"]
    assert len(loaded.train.labels) == 32
    loaded.held_out.between(0, 7)
    (below / "dog" / "broken.png").unlink()
    (below / "cat" / "3.png").unlink()
    assert prepare.describe(data)["data_digest"] != described["data_digest"]  # the digest covers the skipped files


@pytest.mark.parametrize("name", ["ImageFolder", "ImageNet"])
def test_error_that_may_pass_is_not_cached(root: Path, tmp_path: Path, name: str) -> None:
    if name == "ImageNet":
        root.rename(tmp_path / "train")
        (tmp_path / "data").mkdir()
        root = (tmp_path / "train").rename(tmp_path / "data" / "train").parent
    data = spec(root, name=name, on_unreadable="skip")
    image = (root / "train" if name == "ImageNet" else root) / "cat" / "3.png"
    image.rename(tmp_path / "kept")
    image.symlink_to("/proc/self/mem")  # reading the first byte raises EIO
    listed = streamed_files.listing_steps(data, reuse=True, min_files=1)
    skipped = prepare.describe(data)
    assert (skipped["train_images"], skipped["validation_images"]) == (32, 7)
    run_to_end(listed)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    image.unlink()
    (tmp_path / "kept").rename(image)
    assert prepare.describe(data)["validation_images"] == 8
    run_to_end(streamed_files.listing_steps(data, reuse=True, min_files=1))
    assert entries(root, "json")


def test_error_that_may_pass_is_reported_despite_the_cache(root: Path) -> None:
    datasets.load_training(spec(root))
    folder = list_training_folder(root, "ImageFolder")
    cache, key = root.parent / "cache" / "images", "0" * 64
    assert not run_to_end(read_folder(cache, folder, key, SIDE)).unreadable
    (root / "cat" / "3.png").unlink()
    (root / "cat" / "3.png").symlink_to("/proc/self/mem")
    again = run_to_end(read_folder(cache, folder, key, SIDE, again=True))
    assert "Input/output error" in again.unreadable[folder.names.index("cat/3.png")]
    assert again.images is not None
    assert again.images.shape == (40, 3, SIDE, SIDE)
    assert not run_to_end(read_folder(cache, folder, key, SIDE)).unreadable


def test_class_without_a_readable_image_is_refused(root: Path) -> None:
    for path in (root / "cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image in .*/cat is readable"):
        datasets.load_training(spec(root, on_unreadable="skip"))


def test_prepare_reads_both_parts_and_reports_all(root: Path, tmp_path: Path) -> None:
    parted = tmp_path / "parted"
    shutil.copytree(root, parted / "train")
    shutil.copytree(root, parted / "val")
    (parted / "val" / "cat" / "9.png").write_bytes(b"no image")
    (parted / "train" / "empty").mkdir()
    (parted / "other").mkdir()
    answer = prepare.download(spec(parted, resolution=None))
    assert answer["data_digest"] is None
    assert (answer["classes"], answer["test_images"]) == (2, 40)
    assert answer["folder"] == {
        "images_by_class": [
            {"class": "cat", "images": 20, "test_images": 20},
            {"class": "dog", "images": 20, "test_images": 20},
        ],
        "skipped": [
            {"path": "other", "reason": "not used; the parts are train and val", "count": 1},
            {"path": "train/empty", "reason": "holds no files, so it is not a class", "count": 1},
        ],
        "unreadable": [
            {"path": "val/cat/9.png", "reason": "is not a readable image (no known format); replace or delete it"}
        ],
    }
    (parted / "val" / "cat" / "9.png").unlink()
    assert prepare.download(spec(parted))["data_digest"] == prepare.describe(spec(parted))["data_digest"]


def test_digest_of_rgb_images_is_that_of_earlier_versions(root: Path) -> None:
    # Compute the digest of the earlier versions: it covers the type, shape and bytes of each array.
    images = run_to_end(datasets.training_steps(spec(root)))
    sha = hashlib.sha256()
    train, validation = datasets.split(40, spec(root))
    for part, indices in ((images.train, train), (images.validation, validation)):
        for array in (part.images, part.labels, indices):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    assert images.digest == sha.hexdigest()
