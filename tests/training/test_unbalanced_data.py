"""For unbalanced classes, a split can be stratified, and the loss can weight the classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eatnas_db.domain.recipe import class_weights_of
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import DataError, InvalidSpecError
from eatnas_training.data import datasets
from eatnas_training.state import identity_of
from eatnas_training.steps import StepRunner, balanced_weights
from eatnas_training.worker_protocol import StopRequest
from support.trainings import MakeAssignment, after_calls, assert_same_bits, run_training

STRATIFIED = {"name": "digits", "stratify": True}
BALANCED = {"name": "digits", "train_images": 256, "validation_images": 100, "class_weights": "balanced"}
RARE = np.array([0] * 900 + [1] * 90 + [2] * 10)
SPEC = {"name": "s", "space": "eatnas-tiny"}


@pytest.mark.parametrize("train_images", [None, 100, 7])
def test_stratified_parts_have_the_share_of_each_class(train_images: int | None) -> None:
    parts = datasets.split(1000, {**STRATIFIED, "train_images": train_images}, RARE)
    for part in parts:
        share = np.bincount(RARE[part], minlength=3) / len(part)
        assert np.abs(share - [0.9, 0.09, 0.01]).max() <= 1 / len(part) + 1e-9


def test_fewer_stratified_training_images_are_a_subset() -> None:
    train, validation = datasets.split(1000, STRATIFIED, RARE)
    fewer, same = datasets.split(1000, {**STRATIFIED, "train_images": 100}, RARE)
    assert set(fewer.tolist()) < set(train.tolist())
    assert validation.tolist() == same.tolist()
    assert not set(train.tolist()) & set(validation.tolist())


def test_stratification_changes_the_digest() -> None:
    plain, stratified = datasets.load_training({"name": "digits"}), datasets.load_training(STRATIFIED)
    assert plain.digest != stratified.digest
    parts = (stratified.train.labels, stratified.validation.labels)
    shares = [np.bincount(labels) / len(labels) for labels in parts]
    assert np.abs(shares[0] - shares[1]).max() <= 1 / len(stratified.validation.labels)


def test_balanced_weights_have_mean_one_over_the_images() -> None:
    labels = torch.from_numpy(RARE)
    weights = balanced_weights(labels, 3)
    assert float(weights[labels].mean()) == pytest.approx(1)
    sums = [float(weights[labels][labels == label].sum()) for label in range(3)]
    assert sums == pytest.approx([1000 / 3] * 3)


def test_class_without_training_images_cannot_be_weighted() -> None:
    with pytest.raises(DataError, match=r"class 2 has none; set data\.stratify"):
        balanced_weights(torch.tensor([0, 1, 3]), 4)


def test_balanced_weights_change_the_loss_of_a_step(assignment: MakeAssignment) -> None:
    losses = []
    for data in ({**BALANCED, "class_weights": "none"}, BALANCED):
        runner = StepRunner(assignment(data=data))
        runner.load()
        runner.build()
        runner.train_step()
        losses.append(float(runner.state.sums[0]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_weighted_training_resumes_with_the_same_bits(assignment: MakeAssignment) -> None:
    whole = run_training(assignment(data=BALANCED))
    assign = assignment(data=BALANCED)
    run_training(assign, after_calls(3, StopRequest.RELEASE))
    assert_same_bits(whole, run_training(replace(assign, attempt=2)))


def test_checkpoint_belongs_to_one_choice_of_weights(assignment: MakeAssignment) -> None:
    plain, weighted = (assignment(data=data) for data in ({**BALANCED, "class_weights": "none"}, BALANCED))
    recipe = StepRunner(plain).recipe
    assert identity_of(plain, recipe, "d") != identity_of(weighted, recipe, "d")
    assert '"class_weights"' not in identity_of(plain, recipe, "d")


def test_defaults_are_left_out_of_spec_and_recipe() -> None:
    stored = parse_spec({**SPEC, "data": {"name": "digits"}}).model_dump(mode="json")["data"]
    assert not {"stratify", "class_weights"} & set(stored)
    assert class_weights_of(stored) == {}
    set_both = parse_spec({**SPEC, "data": {"name": "digits", "stratify": True, "class_weights": "balanced"}})
    stored = set_both.model_dump(mode="json")["data"]
    assert (stored["stratify"], stored["class_weights"]) == (True, "balanced")
    assert class_weights_of(stored) == {"class_weights": "balanced"}


@pytest.mark.parametrize(("key", "value"), [("stratify", 1), ("stratify", "yes"), ("class_weights", True)])
def test_other_types_are_refused(key: str, value: object) -> None:
    with pytest.raises(InvalidSpecError, match=f"data.{key}"):
        parse_spec({**SPEC, "data": {"name": "digits", key: value}})
