"""A child that inherits: from its parent's file, or from its parent trained again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from eatnas_db.checkpoint_files import read_checkpoint
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished, Phase, Progress, Released, Report
from eatnas_training import checkpoint, loop
from eatnas_training.worker_protocol import StopRequest

Make = Callable[..., Assign]
DATA = {"name": "digits", "train_images": 256, "validation_images": 100}


def train(assign: Assign, wanted: Callable[[], StopRequest] = lambda: StopRequest.NONE) -> list[Report]:
    return list(loop.train(assign, wanted))


def wider(code: list[list[int | float]], position: int) -> list[list[int | float]]:
    changed = [list(block) for block in code]
    changed[position][4] = 2.0
    return changed


@pytest.fixture
def family(assignment: Make) -> tuple[Assign, Assign, Assign]:
    """A grandparent from scratch, a parent that inherits from it, and a child that inherits from the parent."""
    first = assignment(1)
    second = replace(
        assignment(2, code=wider(first.code, 6), epochs=1, checkpoint_folder=first.checkpoint_folder),
        inherits=True,
        ancestors=[asdict(first)],
    )
    third = replace(
        assignment(3, code=wider(second.code, 4), epochs=1, checkpoint_folder=first.checkpoint_folder),
        inherits=True,
        ancestors=[asdict(replace(second, ancestors=[]))],
    )
    return first, second, third


def weights(assign: Assign) -> dict[str, torch.Tensor]:
    (path,) = Path(assign.checkpoint_folder).glob(f"c{assign.candidate}-a*-e{assign.training['epochs']}-b0.ckpt")
    model: dict[str, torch.Tensor] = checkpoint.unpack(read_checkpoint(path))["model"]
    return model


def last(reports: list[Report]) -> Finished:
    assert isinstance(reports[-1], Finished), reports[-1]
    return reports[-1]


def test_a_child_starts_where_its_parent_stopped(assignment: Make) -> None:
    recipe = {"data": {"name": "digits"}, "batch_size": 32, "augment": "none"}
    first = assignment(1, epochs=4, **recipe)
    code = wider(first.code, 4)
    alone = assignment(2, code=code, epochs=1, **recipe)
    heir = replace(alone, inherits=True, ancestors=[asdict(first)], checkpoint_folder=first.checkpoint_folder)
    parent, child, orphan = (last(train(one)) for one in (first, heir, alone))
    assert child.share_inherited is not None
    assert 0.3 < child.share_inherited < 1
    assert child.logit_distance is not None
    assert child.logit_distance < 1e-4  # wider: exact at birth
    assert orphan.share_inherited is None
    assert parent.accuracy > orphan.accuracy + 0.2
    assert child.accuracy > orphan.accuracy + 0.2


def test_a_child_stopped_and_resumed_has_the_same_bits_and_still_knows_its_share(
    family: tuple[Assign, Assign, Assign], assignment: Make
) -> None:
    first, second, _ = family
    train(first)
    whole = last(train(second))
    again = replace(second, attempt=2, checkpoint_folder=assignment().checkpoint_folder)
    heir = replace(again, ancestors=[{**asdict(first)}])
    calls = iter(range(100))
    stopped = train(heir, lambda: StopRequest.RELEASE if next(calls) >= 2 else StopRequest.NONE)
    assert isinstance(stopped[-1], Released)
    resumed = last(train(replace(heir, attempt=3)))
    assert replace(resumed, attempt=0, device_seconds=0) == replace(whole, attempt=0, device_seconds=0)


@pytest.mark.parametrize("damage", ["gone", "garbled"])
def test_without_its_parents_weights_a_child_asks_for_the_whole_chain_and_makes_them_again(
    family: tuple[Assign, Assign, Assign], damage: str
) -> None:
    first, second, third = family
    train(first)
    train(second)
    undisturbed = last(train(third))
    kept = weights(second)
    for path in Path(first.checkpoint_folder).iterdir():
        if damage == "gone" or path.name.startswith("c3"):
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-40] + b"x" * 40)
    failed = train(replace(third, attempt=2))[-1]
    assert isinstance(failed, Failed)
    assert failed.kind == "parent_missing"
    whole = replace(third, attempt=3, ancestors=[asdict(first), asdict(replace(second, ancestors=[]))])
    reports = train(whole)
    assert [report for report in reports if isinstance(report, Phase) and report.phase == "restoring"]
    assert {(r.candidate, r.attempt) for r in reports if isinstance(r, Progress | EpochDone)} == {(3, 3)}
    again = last(reports)
    assert replace(again, attempt=0, device_seconds=0) == replace(undisturbed, attempt=0, device_seconds=0)
    made = weights(second)
    assert all(torch.equal(made[name], kept[name]) for name in kept)


def test_a_stop_while_a_parent_is_made_again_keeps_what_was_made(family: tuple[Assign, Assign, Assign]) -> None:
    first, second, third = family
    whole = replace(third, ancestors=[asdict(first), asdict(replace(second, ancestors=[]))])
    calls = iter(range(1000))
    stopped = train(whole, lambda: StopRequest.RELEASE if next(calls) >= 3 else StopRequest.NONE)
    assert isinstance(stopped[-1], Released)
    assert list(Path(first.checkpoint_folder).glob("c1-*-e0-b*.ckpt"))
    assert isinstance(train(replace(whole, attempt=2))[-1], Finished)


def test_a_larger_task_takes_what_fits(assignment: Make) -> None:
    small = assignment(1)
    train(small)
    data = {**DATA, "resolution": 16}
    task = {"resolution": 16, "channels": 1, "classes": 10}
    large = assignment(2, data=data, epochs=1, checkpoint_folder=small.checkpoint_folder)
    large = replace(large, task=task, inherits=True, ancestors=[asdict(small)])
    done = last(train(large))
    assert done.share_inherited is not None
    assert done.share_inherited > 0.9
    assert done.logit_distance is None
