"""The interface of a search space: its primitives, codes, effective architectures, costs and networks.

`Macro` is EAT-NAS's space and `CellSpace` is the space of NAS-Bench-201. A package adds spaces through an entry point
in the group `eatnas_db.spaces`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from eatnas_db.domain.architecture import Architecture, ChoiceBlock, PrimitiveValue
from eatnas_db.errors import InvalidArchitectureError

if TYPE_CHECKING:
    from eatnas_db.domain.cost import Cost
    from eatnas_db.domain.macro import Task

Primitives = Mapping[str, tuple[PrimitiveValue, ...]]
"""The values of each primitive of a block in ascending order of cost: an earlier value never makes a network larger."""


class SpaceDefinition(ABC):
    """The primitives of each block, and the network around the blocks.

    All methods are pure and none needs torch, because the daemon calls them to decide births. `network` and
    `inheritance` are references `module:name`, which only workers import. `network` names a function that builds a
    `torch.nn.Module` from an architecture, the definition and a task. `inheritance` names a function that writes a
    parent's weights into a child. If `inheritance` is None, no child inherits weights.
    """

    name: str
    network: ClassVar[str]
    inheritance: ClassVar[str | None] = None

    @property
    @abstractmethod
    def blocks(self) -> tuple[Primitives, ...]:
        """The primitives of each block; the values of each primitive are in ascending order of cost."""

    @abstractmethod
    def measure(self, architecture: Architecture, task: Task) -> tuple[Cost, int]:
        """Return the cost of the network, and the peak number of values per image that a training holds in memory."""

    def effective(self, architecture: Architecture) -> Architecture:
        """Return the one architecture that represents all architectures that build the same network."""
        return architecture

    def make_block(self, position: int, values: tuple[PrimitiveValue, ...]) -> Any:
        """Return the block at `position` (from 0); `values` are in the order of the block's primitives."""
        return ChoiceBlock(tuple(zip(self.blocks[position], values, strict=True)))

    def parse_block(self, position: int, text: str) -> Any:
        """Parse the text of the block at `position`.

        Raises `InvalidArchitectureError`, whose message does not name the position.
        """
        return ChoiceBlock.parse(text, self.blocks[position])

    def to_json(self) -> dict[str, Any]:
        """Return the space as the record stores it, in plain JSON values."""
        return {"name": self.name}

    @property
    def runs_code_of_packages(self) -> bool:
        """Whether the methods run code of a package other than eatnas-db.

        Such code may block or raise any error.
        """
        return not type(self).__module__.startswith("eatnas_db.")

    @cached_property
    def variable(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """The position of every block that can change, with the primitives that have several values."""
        several = (
            (position, tuple(name for name, values in primitives.items() if len(values) > 1))
            for position, primitives in enumerate(self.blocks)
        )
        return tuple((position, names) for position, names in several if names)

    def parse(self, text: str) -> Architecture:
        """Parse the stored text of an architecture. Raises `InvalidArchitectureError`, which names the block."""
        blocks = []
        for position, part in enumerate(text.split("/")):
            try:
                # The text may have more blocks than this space; `require_block_count` reports this error later.
                blocks.append(self.parse_block(min(position, len(self.blocks) - 1), part))
            except InvalidArchitectureError as error:
                raise InvalidArchitectureError(f"block {position + 1}: {error}") from None
        return Architecture(tuple(blocks))

    def to_code(self, architecture: Architecture) -> Any:
        """Return the architecture as JSON values, for a worker."""
        return str(architecture)

    def from_code(self, code: Any) -> Architecture:
        """Return the architecture that `to_code` was called on."""
        return self.parse(str(code))

    def digest_text(self, effective: Architecture) -> str:
        """Return a string that identifies the space and the network of an effective architecture."""
        return f"{self.name}:{effective}"

    def require_block_count(self, architecture: Architecture) -> None:
        """Raise `InvalidArchitectureError` unless the architecture has as many blocks as the space."""
        if len(architecture.blocks) != len(self.blocks):
            raise InvalidArchitectureError(
                f"the number of blocks is {len(self.blocks)} in space {self.name} and {len(architecture.blocks)} in "
                "the architecture"
            )
