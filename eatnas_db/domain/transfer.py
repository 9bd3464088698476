"""Elastic transfer: perturb and stretch a basic architecture for another task, or carry over a population. All
functions are pure.

In the paper, the initial population consists of small random perturbations of the basic architecture. No source gives
the size of these perturbations. Here a perturbation changes one primitive in each of one to `max_blocks` blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.change import Change
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import (
    MAX_PROPOSALS,
    DigestLookup,
    Proposal,
    Space,
    apply_change,
    list_changes,
    random_change,
)
from eatnas_db.errors import SpaceExhaustedError

STRETCH_PRIMITIVES: Final = ("depth", "width")


@dataclass(frozen=True, slots=True)
class PerturbationLimits:
    """The largest number of blocks that a perturbation changes, and the primitives that it may change."""

    max_blocks: int
    primitives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survivor:
    """An architecture that is carried over to another task; `place` is the index of the architecture in the ranking."""

    place: int
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class SurvivorSelection:
    """The survivors of a ranking, and the number of architectures left out for each reason."""

    survivors: tuple[Survivor, ...]
    over_limits: int
    same_network: int


def select_survivors(ranking: Sequence[Architecture], space: Space, limit: int) -> SurvivorSelection:
    """Select the first `limit` architectures that are within the limits and build different networks in `space`."""
    survivors: list[Survivor] = []
    held: set[str] = set()
    over_limits = same_network = 0
    for place, architecture in enumerate(ranking):
        if len(survivors) == limit:
            break
        proposal = space.propose(architecture)
        if not space.limits.allow(proposal.cost):
            over_limits += 1
        elif proposal.digest in held:
            same_network += 1
        else:
            held.add(proposal.digest)
            survivors.append(Survivor(place, proposal))
    return SurvivorSelection(tuple(survivors), over_limits, same_network)


def perturb(
    basic: Architecture, space: Space, limits: PerturbationLimits, rng: KeyedRng, is_held: DigestLookup
) -> Proposal:
    """Return the basic architecture with one primitive changed in each of one to `limits.max_blocks` blocks.

    The result is within the hard limits of the space, and the search does not hold it yet. Raises `SpaceExhaustedError`
    if no such architecture is found.
    """
    variable = [
        position for position, names in space.macro.variable if any(name in limits.primitives for name in names)
    ]
    for _ in range(MAX_PROPOSALS if variable else 0):
        count = 1 + rng.randbelow(min(limits.max_blocks, len(variable)))
        architecture = basic
        for position in sorted(variable[index] for index in rng.sample(len(variable), count)):
            architecture = apply_change(architecture, _random_change(basic, position, space, limits.primitives, rng))
        proposal = space.propose(architecture, *list_changes(basic, architecture))
        if space.limits.allow(proposal.cost) and not is_held(proposal.digest):
            return proposal
    raise SpaceExhaustedError(
        f"found no new perturbation of {basic} within the limits of space {space.macro.name}; "
        "allow more blocks or primitives, or raise the limits"
    )


def stretch(
    basic: Architecture, space: Space, mult_adds: int, primitives: Sequence[str] = STRETCH_PRIMITIVES
) -> Architecture:
    """Return the basic architecture, widened, deepened or reduced step by step towards `mult_adds`.

    A move sets one primitive to its next or previous value. Each step takes the move that comes closest to `mult_adds`.
    The steps end when no move comes closer.
    """
    architecture = basic
    distance = abs(space.propose(architecture).cost.mult_adds - mult_adds)
    while True:
        steps = [apply_change(architecture, change) for change in _list_moves(architecture, space, primitives)]
        distances = [abs(space.propose(step).cost.mult_adds - mult_adds) for step in steps]
        closest = min(range(len(steps)), key=distances.__getitem__, default=None)
        if closest is None or distances[closest] >= distance:
            return architecture
        architecture, distance = steps[closest], distances[closest]


def _list_moves(architecture: Architecture, space: Space, primitives: Sequence[str]) -> list[Change]:
    moves = []
    for number, (block, values) in enumerate(zip(architecture.blocks, space.macro.blocks, strict=True), 1):
        for primitive in (name for name in primitives if name in values):
            allowed = values[primitive]
            index = allowed.index(block.value(primitive))
            neighbours = (place for place in (index - 1, index + 1) if 0 <= place < len(allowed))
            moves += [Change(number, primitive, allowed[index], allowed[place]) for place in neighbours]
    return moves


def _random_change(
    basic: Architecture, position: int, space: Space, primitives: Sequence[str], rng: KeyedRng
) -> Change:
    values = space.macro.blocks[position]
    primitive = rng.choice([name for name in primitives if len(values.get(name, ())) > 1])
    return random_change(basic, position, primitive, values, rng)
