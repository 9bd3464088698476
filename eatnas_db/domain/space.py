"""The search space of a macro: equivalent architectures, random samples, and mutations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from eatnas_db.domain.activations import count_activations
from eatnas_db.domain.architecture import (
    DEPTHS,
    KERNELS,
    OPS,
    PRIMITIVES,
    SKIPS,
    WIDTHS,
    Architecture,
    Block,
    PrimitiveValue,
    architecture_digest,
)
from eatnas_db.domain.cost import Cost, compute_cost
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import SpaceExhaustedError

MAX_PROPOSALS: Final = 2000
"""A space counts as exhausted after this many proposals."""
UNSHRUNK_PROPOSALS: Final = 64
"""The number of first proposals that are taken as drawn; later ones over a limit are shrunk until they fit."""


@dataclass(frozen=True, slots=True)
class Change:
    """One primitive of one block (from 1), before and after."""

    block: int
    primitive: str
    before: PrimitiveValue
    after: PrimitiveValue

    def __str__(self) -> str:
        return f"block {self.block} {self.primitive} {_format(self.before)} → {_format(self.after)}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A drawn architecture, its effective form with digest and cost, and the changes from its parent.

    `activations` are the values per image that its training holds in memory.
    """

    architecture: Architecture
    effective: Architecture
    digest: str
    cost: Cost
    activations: int
    changes: tuple[Change, ...] = ()


DigestLookup = Callable[[str], bool]
"""Returns whether a search already holds the network with a digest."""


@dataclass(frozen=True, slots=True)
class Space:
    """A macro, the task that its networks are built for, and hard limits on proposed architectures."""

    macro: Macro
    task: Task
    limits: Limits = field(default_factory=Limits)

    def effective(self, architecture: Architecture) -> Architecture:
        """Return the one architecture that represents all that build the same network.

        It has no skip that no layer can use (SepConv adds the identity only if shape and stride allow it). If several
        widths give the same number of channels, it has the smallest of them.
        """
        self.macro.require_block_count(architecture)
        inputs = self.macro.stem_channels
        blocks = []
        for position, block in enumerate(architecture.blocks):
            outputs = self.macro.block_channels(position, block.width)
            usable = block.op != "sep" or block.depth > 1 or (self.macro.strides[position] == 1 and inputs == outputs)
            width = next(width for width in WIDTHS if self.macro.block_channels(position, width) == outputs)
            blocks.append(Block.of(block.op, block.kernel, block.skip and usable, block.depth, width))
            inputs = outputs
        return Architecture(tuple(blocks))

    def propose(self, architecture: Architecture, *changes: Change) -> Proposal:
        """Return an architecture together with its effective form, digest and cost."""
        effective = self.effective(architecture)
        return Proposal(
            architecture=architecture,
            effective=effective,
            digest=architecture_digest(effective),
            cost=compute_cost(architecture, self.macro, self.task),
            activations=count_activations(architecture, self.macro, self.task),
            changes=changes,
        )

    def smallest(self) -> Proposal:
        """Return the network of the space with the fewest parameters, which also has the fewest mult-adds."""
        block = Block(op=OPS[0], kernel=KERNELS[0], skip=SKIPS[0], depth=DEPTHS[0], width=WIDTHS[0])
        return self.propose(Architecture((block,) * len(self.macro.base)))

    def require_feasible(self) -> None:
        """Raise `SpaceExhaustedError` if the smallest network is over a limit."""
        smallest = self.smallest().cost
        for name, limit, value in (
            ("max_params", self.limits.max_params, smallest.params),
            ("max_mult_adds", self.limits.max_mult_adds, smallest.mult_adds),
        ):
            if limit is not None and value > limit:
                raise SpaceExhaustedError(
                    f"objective.{name} is {limit:,}, but the smallest network of space {self.macro.name} on this data "
                    f"has {value:,}; raise the limit or choose a smaller space"
                )

    def sample(self, rng: KeyedRng, is_held: DigestLookup) -> Proposal:
        """Return a random architecture within the limits that the search does not hold yet.

        Samples are uniform over the architectures within the limits, provided that at least one in a few dozen is
        within the limits; under tighter limits a sample is shrunk, primitive by primitive, until it fits. Raises
        `SpaceExhaustedError` if no architecture is found.
        """
        for count in range(MAX_PROPOSALS):
            blocks = (_random_block(rng) for _ in self.macro.base)
            proposal = self.propose(Architecture(tuple(blocks)))
            if count >= UNSHRUNK_PROPOSALS:
                proposal = self._shrink(proposal, rng)
            if self.limits.allow(proposal.cost) and not is_held(proposal.digest):
                return proposal
        raise SpaceExhaustedError(
            f"found no new architecture within the limits in space {self.macro.name}; raise the limits"
        )

    def mutate(self, parent: Architecture, rng: KeyedRng, is_held: DigestLookup) -> Proposal:
        """Return the parent with one primitive of one block changed, as a network that the search does not hold.

        The change is uniform over blocks, then primitives, then other values, among the allowed changes. Raises
        `SpaceExhaustedError` if no change is allowed.
        """
        self.macro.require_block_count(parent)
        refused: set[Change] = set()
        while len(refused) < self.neighbour_count:
            change = _random_change(parent, rng)
            if change in refused:
                continue
            proposal = self.propose(apply_change(parent, change), change)
            if self.limits.allow(proposal.cost) and not is_held(proposal.digest):
                return proposal
            refused.add(change)
        raise SpaceExhaustedError(f"every neighbour of {parent} is already in the search or over the limits")

    @property
    def neighbour_count(self) -> int:
        """The number of architectures that differ from another in one primitive of one block."""
        return len(self.macro.base) * sum(len(allowed) - 1 for allowed in PRIMITIVES.values())

    @property
    def code_count(self) -> int:
        """The number of architectures in the space, counting those that build the same network."""
        block = 1
        for allowed in PRIMITIVES.values():
            block *= len(allowed)
        return int(block ** len(self.macro.base))

    def _shrink(self, proposal: Proposal, rng: KeyedRng) -> Proposal:
        while not self.limits.allow(proposal.cost):
            steps = _list_steps_down(proposal.architecture)
            if not steps:
                break
            proposal = self.propose(apply_change(proposal.architecture, rng.choice(steps)))
        return proposal


def apply_change(architecture: Architecture, change: Change) -> Architecture:
    """Return the architecture after one change."""
    position = change.block - 1
    block = architecture.blocks[position].with_value(change.primitive, change.after)
    return architecture.with_block(position, block)


def list_changes(before: Architecture, after: Architecture) -> tuple[Change, ...]:
    """List the changes from one architecture to another with the same number of blocks."""
    return tuple(
        Change(number, primitive, old, new)
        for number, (old_block, new_block) in enumerate(zip(before.blocks, after.blocks, strict=True), 1)
        for primitive in PRIMITIVES
        if (old := getattr(old_block, primitive)) != (new := getattr(new_block, primitive))
    )


def _random_block(rng: KeyedRng) -> Block:
    # The arguments are evaluated from left to right, which is the order of the draws.
    return Block.of(rng.choice(OPS), rng.choice(KERNELS), rng.choice(SKIPS), rng.choice(DEPTHS), rng.choice(WIDTHS))


def _random_change(parent: Architecture, rng: KeyedRng) -> Change:
    position = rng.randbelow(len(parent.blocks))
    primitive = rng.choice(tuple(PRIMITIVES))
    before = getattr(parent.blocks[position], primitive)
    after = rng.choice([value for value in PRIMITIVES[primitive] if value != before])
    return Change(position + 1, primitive, before, after)


def _list_steps_down(architecture: Architecture) -> list[Change]:
    steps = []
    for number, block in enumerate(architecture.blocks, 1):
        for primitive, allowed in PRIMITIVES.items():
            index = allowed.index(getattr(block, primitive))
            if index > 0:
                steps.append(Change(number, primitive, allowed[index], allowed[index - 1]))
    return steps


def _format(value: PrimitiveValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
