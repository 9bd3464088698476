"""Elastic transfer, pure: what a basic architecture becomes on another task.

The paper says that the whole initial population is made of the basic architecture by small random changes of
its primitives; how small, no source says. Ours: in each perturbation a few blocks, one to `blocks` of them,
each with one primitive changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.architecture import PRIMITIVES, Architecture
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import TRIES, Change, Held, Proposal, Space, apply, differences
from eatnas_db.errors import SpaceExhaustedError

STRETCHED: Final = ("depth", "width")


@dataclass(frozen=True, slots=True)
class Perturbation:
    """How far a perturbation may go: at most so many blocks, and only these primitives."""

    blocks: int
    primitives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survivors:
    """Who may be carried over to another task, by their place in the ranking, and who is left out, and why."""

    taken: tuple[tuple[int, Proposal], ...]
    over_limits: int
    same_network: int


def survivors(ranked: Sequence[Architecture], space: Space, most: int) -> Survivors:
    """The first `most` of a ranking that are within the limits and build different networks on the new task."""
    taken: list[tuple[int, Proposal]] = []
    held: set[str] = set()
    over_limits = same_network = 0
    for place, architecture in enumerate(ranked):
        if len(taken) == most:
            break
        proposal = space.propose(architecture)
        if not space.limits.allow(proposal.cost):
            over_limits += 1
        elif proposal.digest in held:
            same_network += 1
        else:
            held.add(proposal.digest)
            taken.append((place, proposal))
    return Survivors(tuple(taken), over_limits, same_network)


def perturbed(basic: Architecture, space: Space, strength: Perturbation, chance: KeyedRng, held: Held) -> Proposal:
    """The basic architecture with one primitive changed in each of one to `strength.blocks` blocks.

    Never a network that the search holds, never over a hard limit. Raises `SpaceExhaustedError` when none is found.
    """
    for _ in range(TRIES):
        count = 1 + chance.below(min(strength.blocks, len(basic.blocks)))
        architecture = basic
        for position in sorted(chance.distinct(len(basic.blocks), count)):
            architecture = apply(architecture, _change(basic, position, strength.primitives, chance))
        proposal = space.propose(architecture, *differences(basic, architecture))
        if space.limits.allow(proposal.cost) and not held(proposal.digest):
            return proposal
    raise SpaceExhaustedError(
        f"no new perturbation of {basic} within the limits of space {space.macro.name} was found; "
        "allow more blocks or primitives, or raise the limits"
    )


def stretched(basic: Architecture, space: Space, mult_adds: int, primitives: Sequence[str] = STRETCHED) -> Architecture:
    """The basic architecture widened or deepened, or the reverse, step by step towards `mult_adds` on a new task.

    Each step is the one change by one rank that comes nearest; it ends where none comes nearer.
    """
    architecture = basic
    distance = abs(space.propose(architecture).cost.mult_adds - mult_adds)
    while True:
        steps = [
            apply(architecture, Change(number, primitive, allowed[rank], allowed[other]))
            for number, block in enumerate(architecture.blocks, 1)
            for primitive in primitives
            for allowed in (PRIMITIVES[primitive],)
            for rank in (allowed.index(getattr(block, primitive)),)
            for other in (rank - 1, rank + 1)
            if 0 <= other < len(allowed)
        ]
        costs = [abs(space.propose(step).cost.mult_adds - mult_adds) for step in steps]
        nearest = min(range(len(steps)), key=costs.__getitem__)
        if costs[nearest] >= distance:
            return architecture
        architecture, distance = steps[nearest], costs[nearest]


def _change(basic: Architecture, position: int, primitives: Sequence[str], chance: KeyedRng) -> Change:
    primitive = chance.choice(primitives)
    before = getattr(basic.blocks[position], primitive)
    after = chance.choice([value for value in PRIMITIVES[primitive] if value != before])
    return Change(position + 1, primitive, before, after)
