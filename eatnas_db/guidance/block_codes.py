"""The architectures of a space as codes: the index of the value of every primitive of every block."""

from __future__ import annotations

from typing import Final

from eatnas_db.domain.architecture import PRIMITIVES, Architecture, Block
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.guidance.encoding import Code, Encoding

VALUES: Final = tuple(PRIMITIVES.values())
LEVELS: Final = tuple(map(len, VALUES))
ORDERED: Final = ("kernel", "depth", "width")


class BlockCodes:
    """A space of codes for the model. It includes codes over the limits, and several codes of equal networks."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._blocks = len(space.macro.base)
        self.encoding = Encoding(
            levels=LEVELS * self._blocks,
            ordered=tuple(primitive in ORDERED for primitive in PRIMITIVES) * self._blocks,
            primitives=tuple(range(len(LEVELS))) * self._blocks,
        )

    def encode(self, architecture: Architecture) -> Code:
        """Return the code of an architecture's effective form."""
        return tuple(
            allowed.index(getattr(block, primitive))
            for block in self._space.effective(architecture)
            for primitive, allowed in PRIMITIVES.items()
        )

    def decode(self, code: Code) -> Architecture:
        """Return the architecture of a code."""
        size = len(LEVELS)
        rows = (code[start : start + size] for start in range(0, len(code), size))
        values = (
            {primitive: allowed[index] for (primitive, allowed), index in zip(PRIMITIVES.items(), row, strict=True)}
            for row in rows
        )
        return Architecture(tuple(Block(**block) for block in values))  # type: ignore[arg-type]

    def sample(self, rng: KeyedRng) -> Code:
        """Return a random code."""
        return tuple(rng.randbelow(level) for level in self.encoding.levels)

    def neighbours(self, code: Code) -> list[Code]:
        """Return every code that differs in one primitive of one block."""
        return [
            (*code[:position], value, *code[position + 1 :])
            for position, level in enumerate(self.encoding.levels)
            for value in range(level)
            if value != code[position]
        ]

    def mutate(self, code: Code, count: int, rng: KeyedRng) -> Code:
        """Return a code with `count` primitives changed."""
        mutant = list(code)
        for position in rng.sample(len(code), count):
            other = rng.randbelow(self.encoding.levels[position] - 1)
            mutant[position] = other + (other >= code[position])
        return tuple(mutant)
