from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eatnas_db.checkpoint_files import CheckpointName, read_checkpoint, write_checkpoint
from eatnas_training import checkpoint
from eatnas_training.data.augment import augment_batch
from eatnas_training.data.batches import BatchKey, epoch_order, normalize
from eatnas_training.data.loading import load_data
from eatnas_training.optimizer import learning_rate


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 0.4, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_rates_as_well(steps: int, warmup: float) -> None:
    assert all(0 < learning_rate(step, steps, 0.1, warmup) <= 0.1 for step in range(steps))


def test_a_checkpoint_is_whole_and_read_back(tmp_path: Path) -> None:
    content = checkpoint.pack({"weights": torch.arange(5.0), "epoch": 3})
    done = write_checkpoint(tmp_path / "new" / str(CheckpointName(4, 2, 1, 9)), content)
    assert done.path.name == "c4-a2-e1-b9.ckpt"
    assert done.bytes == done.path.stat().st_size == len(content) + 32
    state = checkpoint.unpack(read_checkpoint(done.path))
    assert torch.equal(state["weights"], torch.arange(5.0))
    assert [path.name for path in done.path.parent.iterdir()] == [done.path.name]


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", b"old").path

    def no_room(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, b"new")
    assert read_checkpoint(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_checkpoint_is_a_value_error(damage: bytes | None) -> None:
    whole = checkpoint.pack({"weights": torch.zeros(1000)})
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.unpack(whole[: len(whole) // 2] if damage is None else damage)


def test_a_flipped_bit_is_found_by_its_digest(tmp_path: Path) -> None:
    done = write_checkpoint(tmp_path / "a.ckpt", b"content")
    done.path.write_bytes(b"C" + done.path.read_bytes()[1:])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(done.path)


def test_every_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    first, second = (epoch_order(100, 7, epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(100, 7, 0))


def test_augmentation_is_keyed_and_moves_by_an_eighth_at_most() -> None:
    images = torch.zeros(64, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 7] = 255
    moved = augment_batch(images, BatchKey("shift", 1, 64, 2, 3))
    again = augment_batch(images, BatchKey("shift", 1, 64, 2, 3))
    other = augment_batch(images, BatchKey("shift", 1, 64, 2, 4))
    assert torch.equal(moved, again)
    assert not torch.equal(moved, other)
    _, _, rows, columns = torch.nonzero(moved, as_tuple=True)
    assert len(rows) == 64
    assert set((rows - 8).tolist()) == set((columns - 7).tolist()) == {-2, -1, 0, 1, 2}


def test_crop_flip_mirrors_about_half_and_none_changes_nothing() -> None:
    images = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 2] = 255
    moved = augment_batch(images, BatchKey("crop_flip", 1, 64, 0, 0))
    mirrored = (moved[:, 0].sum(1)[:, 8:] > 0).any(1).sum()
    assert 60 < mirrored < 140
    assert augment_batch(images, BatchKey("none", 1, 64, 0, 0)) is images


def test_train_images_are_normalised_to_mean_0_and_deviation_1() -> None:
    data = load_data({"name": "digits"}, "cpu")
    floats = normalize(data.train.images, data.train.mean, data.train.scale)
    assert abs(float(floats.mean())) < 1e-4
    assert abs(float(floats.std()) - 1) < 1e-3


def test_the_last_data_stay_loaded() -> None:
    assert load_data({"name": "digits"}, "cpu") is load_data({"name": "digits"}, "cpu")
