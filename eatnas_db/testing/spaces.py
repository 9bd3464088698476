"""Check a search space: its codes, its effective forms, its cost against torch, and its mutations."""

from __future__ import annotations

import json
from typing import Final

from eatnas_db.domain.change import Change
from eatnas_db.domain.macro import Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space, apply_change
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.testing.operators import require_no_torch
from eatnas_training.building import build_with_plugins

CHECKED_TASK: Final = Task(resolution=8, channels=1, classes=10)


def check_space(space: SpaceDefinition, task: Task = CHECKED_TASK, *, samples: int = 20, networks: int = 5) -> None:
    """Raise `AssertionError` or `OperatorError` with the reason if a space lacks a property that searches rely on.

    For `samples` random architectures, the text and the code must round-trip, the effective form must be stable and
    have the same cost, and every change of one primitive must give a valid architecture. The networks of `networks` of
    these architectures are built, counted with `torch.utils.flop_counter`, and run.
    """
    require_no_torch(type(space).__module__)
    for number, primitives in enumerate(space.blocks, 1):
        for name, values in primitives.items():
            assert values, f"block {number}: primitive {name} has no values"
            assert len(set(map(str, values))) == len(values), f"block {number}: two values of {name} have the same text"
    searched = Space(space, task)
    for number in range(samples):
        proposal = searched.sample(KeyedRng(0, "check", number), lambda digest: False)
        architecture, effective = proposal.architecture, proposal.effective
        text = str(architecture)
        assert space.parse(text) == architecture, f"{text} is parsed as {space.parse(text)}"
        code = json.loads(json.dumps(space.to_code(architecture)))
        assert space.from_code(code) == architecture, f"{text} does not round-trip through the code {code}"
        assert space.effective(effective) == effective, (
            f"{effective} is an effective form, but its own effective form differs"
        )
        assert space.measure(effective, task)[0] == proposal.cost, f"{text} and its effective form differ in cost"
        assert space.measure(architecture, task) == space.measure(architecture, task), (
            f"two calls count different costs for {text}"
        )
        for position, primitives in enumerate(space.blocks):
            for name, values in primitives.items():
                before = architecture.blocks[position].value(name)
                for after in values:
                    changed = apply_change(architecture, Change(position + 1, name, before, after))
                    assert space.parse(str(searched.propose(changed).architecture)) == changed
        if number < networks:
            build_with_plugins(architecture, space, task, seed=number)
