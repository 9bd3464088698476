"""Children inherit weights from their parent's checkpoint, or from a parent that is trained again."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from eatnas_db.checkpoint_files import read_checkpoint
from eatnas_protocol.messages import AncestorRetrained, Assign, EpochDone, Finished, Phase, Progress, Released
from eatnas_training import checkpoint
from eatnas_training.worker_protocol import StopRequest
from support.trainings import MakeAssignment, after_calls, failed, finished, run_training

Family = tuple[Assign, Assign, Assign]


def widen(code: list[list[int | float]], position: int) -> list[list[int | float]]:
    changed = [list(block) for block in code]
    changed[position][4] = 2.0
    return changed


@pytest.fixture
def family(assignment: MakeAssignment) -> Family:
    """Return a candidate without a parent, its child, and its grandchild."""
    grandparent = assignment(1)
    folder = grandparent.checkpoint_folder
    parent = replace(
        assignment(2, code=widen(grandparent.code, 6), epochs=1, checkpoint_folder=folder),
        inherits=True,
        ancestors=[asdict(grandparent)],
    )
    child = replace(
        assignment(3, code=widen(parent.code, 4), epochs=1, checkpoint_folder=folder),
        inherits=True,
        ancestors=[asdict(replace(parent, ancestors=[]))],
    )
    return grandparent, parent, child


def with_all_ancestors(family: Family, attempt: int) -> Assign:
    grandparent, parent, child = family
    ancestors = [asdict(replace(grandparent, attempt=0)), asdict(replace(parent, attempt=0, ancestors=[]))]
    return replace(child, attempt=attempt, ancestors=ancestors)


def final_weights(assign: Assign) -> dict[str, torch.Tensor]:
    name = f"c{assign.candidate}-a{assign.attempt}-e{assign.training['epochs']}-b0.ckpt"
    path = Path(assign.checkpoint_folder, name)
    model: dict[str, torch.Tensor] = checkpoint.unpack(read_checkpoint(path))["model"]
    return model


def comparable(report: Finished) -> Finished:
    return replace(report, attempt=0, device_seconds=0)


@pytest.mark.slow
def test_child_starts_from_its_parents_weights(assignment: MakeAssignment) -> None:
    recipe = {"data": {"name": "digits"}, "batch_size": 32, "augment": "none"}
    parent = assignment(1, epochs=4, **recipe)
    unrelated = assignment(2, code=widen(parent.code, 4), epochs=1, **recipe)
    child = replace(unrelated, inherits=True, ancestors=[asdict(parent)], checkpoint_folder=parent.checkpoint_folder)
    of_parent, of_child, of_unrelated = (finished(run_training(assign)) for assign in (parent, child, unrelated))
    assert of_child.share_inherited is not None
    assert 0.3 < of_child.share_inherited < 1
    assert of_child.logit_distance is not None
    # the child is only wider, so its initial logits equal the logits of its parent
    assert of_child.logit_distance < 1e-4
    assert of_unrelated.share_inherited is None
    assert of_parent.accuracy > of_unrelated.accuracy + 0.2
    assert of_child.accuracy > of_unrelated.accuracy + 0.2


@pytest.mark.slow
def test_resumed_child_has_the_same_bits_and_share(family: Family, assignment: MakeAssignment) -> None:
    grandparent, parent, _ = family
    run_training(grandparent)
    uninterrupted = finished(run_training(parent))
    again = replace(
        parent,
        attempt=2,
        checkpoint_folder=assignment().checkpoint_folder,
        ancestors=[asdict(grandparent)],
    )
    assert isinstance(run_training(again, after_calls(3, StopRequest.RELEASE))[-1], Released)
    resumed = finished(run_training(replace(again, attempt=3)))
    assert comparable(resumed) == comparable(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_missing_ancestors_are_trained_again_with_the_same_bits(family: Family, damage: str) -> None:
    grandparent, parent, child = family
    run_training(grandparent)
    run_training(parent)
    undisturbed = finished(run_training(child))
    original_weights = final_weights(parent)
    for path in Path(grandparent.checkpoint_folder).iterdir():
        if damage == "missing" or path.name.startswith("c3"):
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-40] + b"x" * 40)
    assert failed(run_training(replace(child, attempt=2))).kind == "parent_missing"
    reports = run_training(with_all_ancestors(family, attempt=3))
    assert "restoring" in [report.phase for report in reports.of(Phase)]
    positions = [*reports.of(Progress), *reports.of(EpochDone)]
    assert {(report.candidate, report.attempt) for report in positions} == {(3, 3)}
    assert comparable(finished(reports)) == comparable(undisturbed)
    weights = final_weights(replace(parent, attempt=0))
    assert all(torch.equal(weights[name], original_weights[name]) for name in original_weights)


def test_release_while_retraining_an_ancestor_keeps_its_checkpoint(family: Family) -> None:
    grandparent, _, _ = family
    child = with_all_ancestors(family, attempt=1)
    assert isinstance(run_training(child, after_calls(4, StopRequest.RELEASE))[-1], Released)
    assert list(Path(grandparent.checkpoint_folder).glob("c1-*-e0-b*.ckpt"))
    finished(run_training(replace(child, attempt=2)))


def test_retrained_ancestor_keeps_two_checkpoints(family: Family) -> None:
    grandparent, parent, child = family
    recipe = {**grandparent.training, "checkpoint_seconds": 1e-9}
    ancestor = replace(grandparent, attempt=0, training=recipe)
    run_training(replace(parent, ancestors=[asdict(ancestor)]))
    assert len(list(Path(child.checkpoint_folder).glob("c1-a0-*.ckpt"))) == 2


def test_retrained_ancestor_is_not_trained_again_for_its_next_child(family: Family) -> None:
    child = with_all_ancestors(family, attempt=1)
    sibling = replace(child, candidate=4)
    assert [report.ancestor for report in run_training(child).of(AncestorRetrained)] == [1, 2]
    assert not run_training(sibling).of(AncestorRetrained)


def test_child_on_a_larger_task_inherits_most_weights(assignment: MakeAssignment) -> None:
    parent = assignment(1)
    run_training(parent)
    data = {"name": "digits", "train_images": 256, "validation_images": 100, "resolution": 16}
    child = replace(
        assignment(2, data=data, epochs=1, checkpoint_folder=parent.checkpoint_folder),
        task={"resolution": 16, "channels": 1, "classes": 10},
        inherits=True,
        ancestors=[asdict(parent)],
    )
    report = finished(run_training(child))
    assert report.share_inherited is not None
    assert report.share_inherited > 0.9
    assert report.logit_distance is None
