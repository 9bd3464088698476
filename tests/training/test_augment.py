from __future__ import annotations

import torch

from eatnas_training.data.augment import augment_batch
from eatnas_training.data.batches import BatchKey, epoch_order
from eatnas_training.data.loading import load_data
from eatnas_training.data.resident import ResidentPart


def key(augment: str, seed: int = 1, epoch: int = 0, batch: int = 0) -> BatchKey:
    return BatchKey(augment=augment, seed=seed, size=64, epoch=epoch, batch=batch)


def test_each_epoch_has_its_own_order_of_all_images() -> None:
    first, second = (epoch_order(100, 7, epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(100, 7, 0))


def test_shift_depends_on_the_key_and_is_bounded() -> None:
    images = torch.zeros(64, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 7] = 255
    shifted = augment_batch(images, key("shift", epoch=2, batch=3))
    again = augment_batch(images, key("shift", epoch=2, batch=3))
    other = augment_batch(images, key("shift", epoch=2, batch=4))
    assert torch.equal(shifted, again)
    assert not torch.equal(shifted, other)
    _, _, rows, columns = torch.nonzero(shifted, as_tuple=True)
    assert len(rows) == 64
    assert set((rows - 8).tolist()) == set((columns - 7).tolist()) == {-2, -1, 0, 1, 2}


def test_crop_flip_mirrors_half_and_none_changes_nothing() -> None:
    images = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 2] = 255
    augmented = augment_batch(images, key("crop_flip"))
    mirrored = (augmented[:, 0].sum(1)[:, 8:] > 0).any(1).sum()
    assert 60 < mirrored < 140
    assert augment_batch(images, key("none")) is images


def test_flip_mirrors_half_and_shifts_nothing() -> None:
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    augmented = augment_batch(images, key("flip"))
    mirrored = (augmented == images.flip(3)).all((1, 2, 3))
    assert 60 < mirrored.sum() < 140
    assert torch.equal(augmented[~mirrored], images[~mirrored])


def test_training_images_are_normalized() -> None:
    train = load_data({"name": "digits"}, "cpu").train
    assert isinstance(train, ResidentPart)
    images, _ = train.between(0, len(train.labels))
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-3


def test_data_loaded_last_stay_in_memory() -> None:
    assert load_data({"name": "digits"}, "cpu") is load_data({"name": "digits"}, "cpu")
