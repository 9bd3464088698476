"""The search space under a macro: which codes build one and the same network, sampling, and mutation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from eatnas_db.domain.architecture import (
    DEPTHS,
    KERNELS,
    OPS,
    PRIMITIVES,
    SKIPS,
    WIDTHS,
    Architecture,
    Block,
    Value,
    digest,
)
from eatnas_db.domain.cost import Cost, cost
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import SpaceExhaustedError

TRIES: Final = 2000
"""Proposals looked at before a space counts as exhausted."""
FREE_TRIES: Final = 64
"""Of these, so many are taken as drawn; later ones that break a limit are shrunk until they fit."""


@dataclass(frozen=True, slots=True)
class Change:
    """One primitive of one block (from 1), before and after."""

    block: int
    primitive: str
    before: Value
    after: Value

    def __str__(self) -> str:
        return f"block {self.block} {self.primitive} {_shown(self.before)} → {_shown(self.after)}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture as drawn, the digest of its network, what the network costs, and what was changed."""

    architecture: Architecture
    effective: Architecture
    digest: str
    cost: Cost
    changes: tuple[Change, ...] = ()


Held = Callable[[str], bool]
"""Whether a search already holds the network of this digest."""


@dataclass(frozen=True, slots=True)
class Space:
    """A macro, the task it is built for, and the hard limits on what may be proposed."""

    macro: Macro
    task: Task
    limits: Limits = field(default_factory=Limits)

    def effective(self, architecture: Architecture) -> Architecture:
        """The one code that stands for a network: of all codes that build it, the cheapest to write.

        A skip that no layer can use is cleared (SepConv adds the identity only where shape and stride
        agree), and a width that gives the channels of a smaller one is written as the smaller one.
        """
        self.macro.require(architecture)
        inputs = self.macro.stem_channels
        blocks = []
        for position, block in enumerate(architecture.blocks):
            outputs = self.macro.block_channels(position, block.width)
            usable = block.op != "sep" or block.depth > 1 or (self.macro.strides[position] == 1 and inputs == outputs)
            width = next(w for w in WIDTHS if self.macro.block_channels(position, w) == outputs)
            blocks.append(Block(block.op, block.kernel, block.skip and usable, block.depth, width))
            inputs = outputs
        return Architecture(tuple(blocks))

    def propose(self, architecture: Architecture, *changes: Change) -> Proposal:
        """Everything that has to be known of an architecture before it is queued."""
        effective = self.effective(architecture)
        return Proposal(
            architecture,
            effective,
            digest(effective),
            cost(architecture, self.macro, self.task),
            changes,
        )

    def smallest(self) -> Proposal:
        """The cheapest network of the space, in parameters and mult-adds alike."""
        block = Block(OPS[0], KERNELS[0], SKIPS[0], DEPTHS[0], WIDTHS[0])
        return self.propose(Architecture((block,) * len(self.macro.base)))

    def require_room(self) -> None:
        """Raise `SpaceExhaustedError` when not even the smallest network is within the limits."""
        least = self.smallest().cost
        for name, limit, value in (
            ("max_params", self.limits.max_params, least.params),
            ("max_mult_adds", self.limits.max_mult_adds, least.mult_adds),
        ):
            if limit is not None and value > limit:
                raise SpaceExhaustedError(
                    f"objective.{name} is {limit:,}, but the smallest network of space "
                    f"{self.macro.name} on this data has {value:,}; raise the limit or take a smaller space"
                )

    def sample(self, chance: KeyedRng, held: Held) -> Proposal:
        """A random architecture that the search does not hold, within the limits.

        Uniform over the codes within the limits, as long as one in a few dozen codes is; under tighter
        limits a draw is shrunk, primitive by primitive, until it fits. Raises `SpaceExhaustedError`.
        """
        for attempt in range(TRIES):
            blocks = (_random_block(chance) for _ in self.macro.base)
            proposal = self.propose(Architecture(tuple(blocks)))
            if attempt >= FREE_TRIES:
                proposal = self._shrunk(proposal, chance)
            if self.limits.allow(proposal.cost) and not held(proposal.digest):
                return proposal
        raise SpaceExhaustedError(
            f"space {self.macro.name}: no new architecture within the limits was found; raise them"
        )

    def mutate(self, parent: Architecture, chance: KeyedRng, held: Held) -> Proposal:
        """The parent with one primitive of one block changed: a network the search does not hold.

        Uniform over blocks, then primitives, then other values, among the changes that are allowed.
        Raises `SpaceExhaustedError` when none of them is.
        """
        self.macro.require(parent)
        refused: set[Change] = set()
        while len(refused) < self.neighbours:
            change = _random_change(parent, chance)
            if change in refused:
                continue
            proposal = self.propose(apply(parent, change), change)
            if self.limits.allow(proposal.cost) and not held(proposal.digest):
                return proposal
            refused.add(change)
        raise SpaceExhaustedError(f"every neighbour of {parent} is in the search already or over the limits")

    @property
    def neighbours(self) -> int:
        """How many codes differ from a code in one primitive of one block."""
        return len(self.macro.base) * sum(len(allowed) - 1 for allowed in PRIMITIVES.values())

    @property
    def size(self) -> int:
        """How many codes the space has."""
        block = 1
        for allowed in PRIMITIVES.values():
            block *= len(allowed)
        return int(block ** len(self.macro.base))

    def _shrunk(self, proposal: Proposal, chance: KeyedRng) -> Proposal:
        while not self.limits.allow(proposal.cost):
            steps = list(_steps_down(proposal.architecture))
            if not steps:
                break
            proposal = self.propose(apply(proposal.architecture, chance.choice(steps)))
        return proposal


def apply(architecture: Architecture, change: Change) -> Architecture:
    """The architecture after one change."""
    position = change.block - 1
    block = architecture.blocks[position].with_value(change.primitive, change.after)
    return architecture.with_block(position, block)


def differences(before: Architecture, after: Architecture) -> tuple[Change, ...]:
    """What has to change in one architecture to get another of as many blocks."""
    return tuple(
        Change(number, primitive, old, new)
        for number, (a, b) in enumerate(zip(before.blocks, after.blocks, strict=True), 1)
        for primitive in PRIMITIVES
        if (old := getattr(a, primitive)) != (new := getattr(b, primitive))
    )


def _random_block(chance: KeyedRng) -> Block:
    return Block(
        chance.choice(OPS),
        chance.choice(KERNELS),
        chance.choice(SKIPS),
        chance.choice(DEPTHS),
        chance.choice(WIDTHS),
    )


def _random_change(parent: Architecture, chance: KeyedRng) -> Change:
    position = chance.below(len(parent.blocks))
    primitive = chance.choice(tuple(PRIMITIVES))
    before = getattr(parent.blocks[position], primitive)
    after = chance.choice([value for value in PRIMITIVES[primitive] if value != before])
    return Change(position + 1, primitive, before, after)


def _steps_down(architecture: Architecture) -> list[Change]:
    steps = []
    for number, block in enumerate(architecture.blocks, 1):
        for primitive, allowed in PRIMITIVES.items():
            rank = allowed.index(getattr(block, primitive))
            if rank > 0:
                steps.append(Change(number, primitive, allowed[rank], allowed[rank - 1]))
    return steps


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
