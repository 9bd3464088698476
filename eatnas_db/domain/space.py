"""A search space for the networks of one task: equivalent architectures, random samples, and mutations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from eatnas_db.domain.architecture import Architecture, PrimitiveValue, text_digest
from eatnas_db.domain.change import Change
from eatnas_db.domain.cost import Cost
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space_definition import Primitives, SpaceDefinition
from eatnas_db.errors import EatnasError, PluginError, SpaceExhaustedError
from eatnas_db.time_limits import call_within_limit

T = TypeVar("T")

MAX_PROPOSALS: Final = 2000
"""A space counts as exhausted after this many proposals without a new architecture."""
UNSHRUNK_PROPOSALS: Final = 64
"""The number of initial draws that are never shrunk. A later draw that exceeds a limit is shrunk until it fits."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A drawn architecture, its effective form with the digest and cost, and the changes from its parent.

    `activations` is the peak number of values per image that a training of the network holds in memory.
    """

    architecture: Architecture
    effective: Architecture
    digest: str
    cost: Cost
    activations: int
    changes: tuple[Change, ...] = ()


DigestLookup = Callable[[str], bool]
"""Returns whether a search already holds the network with the given digest."""


@dataclass(frozen=True, slots=True)
class Space:
    """A space definition, the task of its networks, and hard limits on proposed architectures.

    `macro` is the space definition: the primitives, and the network around the blocks.
    """

    macro: SpaceDefinition
    task: Task
    limits: Limits = field(default_factory=Limits)

    def effective(self, architecture: Architecture) -> Architecture:
        """Return the one architecture that represents all architectures that build the same network."""
        return self._call(f"read {architecture}", self._represent, architecture)

    def _represent(self, architecture: Architecture) -> Architecture:
        if self.macro.runs_code_of_packages:
            require_round_trip(self.macro, architecture)
        return self.macro.effective(architecture)

    def parse(self, code: str) -> Architecture:
        """Parse the stored text of an architecture. Raises `InvalidArchitectureError`."""
        return self._call(f"read {code}", self.macro.parse, code)

    def digest(self, effective: Architecture) -> str:
        """Return the digest of the network of an effective architecture."""
        return text_digest(self._call(f"read {effective}", self.macro.digest_text, effective))

    def propose(self, architecture: Architecture, *changes: Change) -> Proposal:
        """Return an architecture together with its effective form, digest and cost. Raises `EatnasError`."""
        effective = self.effective(architecture)
        digest = self.digest(effective)
        cost, activations = self._call(f"count {architecture}", self.macro.measure, architecture, self.task)
        return Proposal(
            architecture=architecture,
            effective=effective,
            digest=digest,
            cost=cost,
            activations=activations,
            changes=changes,
        )

    def smallest(self) -> Proposal:
        """Return the smallest network of the space: it has the fewest parameters and the fewest mult-adds."""
        return self.propose(self._make_architecture(lambda values: values[0]))

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
        """Return a random architecture that is within the limits and that the search does not hold yet.

        A sample that is found in the first `UNSHRUNK_PROPOSALS` draws is uniform over the architectures within the
        limits. A later draw that exceeds a limit is shrunk, primitive by primitive, until it fits. Raises
        `SpaceExhaustedError` if no architecture is found.
        """
        for count in range(MAX_PROPOSALS):
            proposal = self.propose(self._make_architecture(rng.choice))
            if count >= UNSHRUNK_PROPOSALS:
                proposal = self._shrink(proposal, rng)
            if self.limits.allow(proposal.cost) and not is_held(proposal.digest):
                return proposal
        raise SpaceExhaustedError(
            f"found no new architecture within the limits in space {self.macro.name}; raise the limits"
        )

    def mutate(self, parent: Architecture, rng: KeyedRng, is_held: DigestLookup) -> Proposal:
        """Return a network that differs from the parent in one primitive and that the search does not hold yet.

        Draw the block, its primitive and the new value uniformly, one after the other, until a change is allowed.
        Raises `SpaceExhaustedError` if no change is allowed.
        """
        self.macro.require_block_count(parent)
        refused: set[Change] = set()
        while len(refused) < self.neighbour_count:
            change = self._random_change(parent, rng)
            if change in refused:
                continue
            proposal = self.propose(apply_change(parent, change), change)
            if self.limits.allow(proposal.cost) and not is_held(proposal.digest):
                return proposal
            refused.add(change)
        raise SpaceExhaustedError(f"every neighbour of {parent} is already in the search or over the limits")

    @property
    def neighbour_count(self) -> int:
        """The number of architectures that differ from a given one in one primitive of one block."""
        return sum(len(allowed) - 1 for primitives in self.macro.blocks for allowed in primitives.values())

    @property
    def code_count(self) -> int:
        """The number of architectures in the space; several architectures may build the same network."""
        return math.prod(len(allowed) for primitives in self.macro.blocks for allowed in primitives.values())

    def _shrink(self, proposal: Proposal, rng: KeyedRng) -> Proposal:
        while not self.limits.allow(proposal.cost):
            steps = self._list_steps_down(proposal.architecture)
            if not steps:
                break
            proposal = self.propose(apply_change(proposal.architecture, rng.choice(steps)))
        return proposal

    def _make_architecture(self, choose: Callable[[tuple[PrimitiveValue, ...]], PrimitiveValue]) -> Architecture:
        def make() -> Architecture:
            make_block = self.macro.make_block
            return Architecture(
                tuple(
                    # `map` draws from left to right, so the order of the draws is fixed.
                    make_block(position, tuple(map(choose, primitives.values())))
                    for position, primitives in enumerate(self.macro.blocks)
                )
            )

        return self._call("make an architecture", make)

    def _call(self, task: str, method: Callable[..., T], *arguments: object) -> T:
        """Call a method of the space.

        Raises `PluginError` if the code of a plug-in raises an error or exceeds the time limit.
        """
        if not self.macro.runs_code_of_packages:
            return method(*arguments)
        try:
            return call_within_limit(method, *arguments)
        except EatnasError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"space {self.macro.name} cannot {task} ({type(error).__name__}: {error}); fix the package that "
                "defines the space"
            ) from error

    def _random_change(self, parent: Architecture, rng: KeyedRng) -> Change:
        position, primitives = rng.choice(self.macro.variable)
        return random_change(parent, position, rng.choice(primitives), self.macro.blocks[position], rng)

    def _list_steps_down(self, architecture: Architecture) -> list[Change]:
        steps = []
        for number, (block, primitives) in enumerate(zip(architecture.blocks, self.macro.blocks, strict=True), 1):
            for primitive, allowed in primitives.items():
                index = allowed.index(block.value(primitive))
                if index > 0:
                    steps.append(Change(number, primitive, allowed[index], allowed[index - 1]))
        return steps


def require_round_trip(macro: SpaceDefinition, architecture: Architecture) -> None:
    """Raise `PluginError` if the space reads the text or the code of an architecture as another architecture."""
    code = macro.to_code(architecture)
    for name, notation, read in (
        ("text", str(architecture), macro.parse(str(architecture))),
        ("code", code, macro.from_code(json.loads(json.dumps(code)))),
    ):
        if read != architecture:
            raise PluginError(
                f"space {macro.name} reads the {name} {notation} of an architecture as another architecture, {read}; "
                "fix the package that defines the space, and test the space with eatnas_db.testing.check_space"
            )


def apply_change(architecture: Architecture, change: Change) -> Architecture:
    """Return the architecture after one change."""
    position = change.block - 1
    block = architecture.blocks[position].with_value(change.primitive, change.after)
    return architecture.with_block(position, block)


def random_change(
    architecture: Architecture, position: int, primitive: str, primitives: Primitives, rng: KeyedRng
) -> Change:
    """Return a random change of `primitive` in the block at `position` (from 0) to another value."""
    before = architecture.blocks[position].value(primitive)
    after = rng.choice([value for value in primitives[primitive] if value != before])
    return Change(position + 1, primitive, before, after)


def list_changes(before: Architecture, after: Architecture) -> tuple[Change, ...]:
    """List the changes from one architecture to another that has the same number of blocks."""
    return tuple(
        Change(number, primitive, old_block.value(primitive), new_block.value(primitive))
        for number, (old_block, new_block) in enumerate(zip(before.blocks, after.blocks, strict=True), 1)
        if old_block != new_block
        for primitive in new_block.primitives
        if old_block.value(primitive) != new_block.value(primitive)
    )
