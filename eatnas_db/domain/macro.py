"""Macros: the fixed parts of a network around the blocks that a search chooses.

`eatnas-imagenet` is the network that the authors released. The strides and sizes of the smaller macros are our own
choice: no source gives the paper's small-scale network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Final

from eatnas_db.domain.activations import sum_activations
from eatnas_db.domain.architecture import (
    PRIMITIVES,
    WIDTHS,
    Architecture,
    Block,
    OperatorBlock,
    PrimitiveValue,
    parse_block,
)
from eatnas_db.domain.cost import Cost, count_layers, sum_costs
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Operator
from eatnas_db.domain.space_definition import Primitives, SpaceDefinition

MIN_CHANNELS: Final = 4


@dataclass(frozen=True)
class Macro(SpaceDefinition):
    """EAT-NAS's space: the stem, the strides and base channels of the blocks, the head, and a multiplier of channels.

    `operators`: the values of the primitive `op`, in ascending order of cost.
    """

    name: str
    stem_channels: int
    stem_stride: int
    strides: tuple[int, ...]
    base: tuple[int, ...]
    head_channels: int
    multiplier: float = 1.0
    operators: InitVar[tuple[Operator, ...]] = BUILT_IN_OPERATORS

    network: ClassVar[str] = "eatnas_training.network:build"
    inheritance: ClassVar[str | None] = "eatnas_training.inheritance.transfer:inherit_weights"

    def __post_init__(self, operators: tuple[Operator, ...]) -> None:
        # `operators` is not a dataclass field, because operators are not JSON values: `to_json` stores their names.
        object.__setattr__(self, "operators", operators)

    def __eq__(self, other: object) -> bool:
        # Searches may define spaces that differ in their operators alone, and caches must tell them apart.
        return self._identity == other._identity if isinstance(other, Macro) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        return type(self), self._operators, *(getattr(self, field.name) for field in fields(self))

    @property
    def _operators(self) -> tuple[Operator, ...]:
        operators: tuple[Operator, ...] = self.__dict__["operators"]
        return operators

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Macro:
        """Return the macro that `to_json` was called on."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the macro as plain JSON values.

        The values include the names of the operators only if a package defines one of them.
        """
        stored = asdict(self)
        if self.has_own_operators:
            stored["ops"] = list(self._operator_names)
        return stored

    @cached_property
    def runs_code_of_packages(self) -> bool:
        """Whether a package other than eatnas-db defines the class of the space or one of its operators."""
        is_known = type(self) is Macro and all(operator in BUILT_IN_OPERATORS for operator in self._operators)
        return not is_known

    @property
    def has_own_operators(self) -> bool:
        """Whether the operators differ from EAT-NAS's operators."""
        return self._operators != BUILT_IN_OPERATORS

    @cached_property
    def blocks(self) -> tuple[Primitives, ...]:
        """The primitives of each block; the values of each primitive are in ascending order of cost."""
        primitives = PRIMITIVES
        if self.has_own_operators:
            primitives = {**PRIMITIVES, "op": self._operator_names}
        return (primitives,) * len(self.base)

    @cached_property
    def _operator_names(self) -> tuple[str, ...]:
        return tuple(operator.name for operator in self._operators)

    @cached_property
    def _block_class(self) -> type[Block]:
        return OperatorBlock if self.has_own_operators else Block

    @cached_property
    def _operators_by_name(self) -> dict[str, Operator]:
        return {operator.name: operator for operator in self._operators}

    def operator(self, name: str) -> Operator:
        """Return an operator of the space by name."""
        return self._operators_by_name[name]

    def block_channels(self, position: int, width: float) -> int:
        """Return the number of output channels of the block at `position` (from 0), at least `MIN_CHANNELS`."""
        return max(MIN_CHANNELS, int(self.base[position] * width * self.multiplier))

    def make_block(self, position: int, values: tuple[PrimitiveValue, ...]) -> Block:
        """Return the block with these values."""
        return self._block_class.of(*values)

    def parse_block(self, position: int, text: str) -> Block:
        """Parse the text of a block."""
        return parse_block(text, self._operator_names)

    def effective(self, architecture: Architecture) -> Architecture:
        """Return the one architecture that represents all architectures that build the same network.

        This architecture has a skip only where a layer can use it (SepConv adds the identity only if shape and stride
        allow it). If several widths give the same number of channels, the architecture has the smallest of these
        widths.
        """
        self.require_block_count(architecture)
        inputs = self.stem_channels
        blocks = []
        for position, block in enumerate(architecture.blocks):
            outputs = self.block_channels(position, block.width)
            usable = block.op != "sep" or block.depth > 1 or (self.strides[position] == 1 and inputs == outputs)
            width = next(width for width in WIDTHS if self.block_channels(position, width) == outputs)
            blocks.append(self._block_class.of(block.op, block.kernel, block.skip and usable, block.depth, width))
            inputs = outputs
        return Architecture(tuple(blocks))

    def measure(self, architecture: Architecture, task: Task) -> tuple[Cost, int]:
        """Return the cost of the network, and the peak number of values per image that a training holds in memory."""
        self.require_block_count(architecture)
        layers = list(count_layers(architecture, self, task))
        return sum_costs(layers, self, task), sum_activations(layers, self, task)

    def to_code(self, architecture: Architecture) -> Any:
        """Return the authors' notation of an architecture, or the readable notation if the operators differ."""
        return str(architecture) if self.has_own_operators else architecture.to_code()

    def from_code(self, code: Any) -> Architecture:
        """Return the architecture that `to_code` was called on."""
        return self.parse(code) if isinstance(code, str) else Architecture.from_code(code)

    def digest_text(self, effective: Architecture) -> str:
        """Return a string that identifies the network and does not depend on the macro."""
        return str(effective)

    @property
    def reduction(self) -> int:
        """The factor by which the stem and the strides reduce the side of an image."""
        return self.stem_stride * math.prod(self.strides)


@dataclass(frozen=True, slots=True)
class Task:
    """The side of the square images in pixels, their channels, and the number of classes."""

    resolution: int
    channels: int
    classes: int

    def describe(self) -> str:
        """Return the task in words, for a message."""
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.classes} classes and images of {self.resolution} × {self.resolution} pixels with {channels}"


_MOBILENET_V2: Final = (16, 24, 32, 64, 96, 160, 320)

PRESETS: Final[dict[str, Macro]] = {
    macro.name: macro
    for macro in (
        Macro("eatnas-imagenet", 32, 2, (1, 2, 2, 2, 1, 2, 1), _MOBILENET_V2, 1280),
        Macro("eatnas-cifar", 32, 1, (1, 1, 2, 2, 1, 2, 1), _MOBILENET_V2, 1280),
        Macro("eatnas-small", 16, 2, (1, 1, 2, 1, 1, 2, 1), _MOBILENET_V2, 320, 0.25),
        Macro("eatnas-tiny", 8, 1, (1, 1, 2, 1, 1, 2, 1), _MOBILENET_V2, 128, 0.25),
    )
}
