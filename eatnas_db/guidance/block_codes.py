"""Convert between architectures and codes.

A code has an integer for each primitive of each block: the index of the primitive's value.
"""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_db.domain.architecture import Architecture, PrimitiveValue
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.guidance.encoding import Code, Encoding


class BlockCodes:
    """The codes of a search space.

    Some codes belong to architectures over the limits, and several codes may belong to one network.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._values = [list(primitives.values()) for primitives in space.macro.blocks]
        named = [item for primitives in space.macro.blocks for item in primitives.items()]
        # Two positions belong to one primitive only if both its name and its values are the same.
        numbers = {item: number for number, item in enumerate(dict.fromkeys(named))}
        self.encoding = Encoding(
            levels=tuple(len(values) for _, values in named),
            ordered=tuple(_are_numbers(values) for _, values in named),
            primitives=tuple(numbers[item] for item in named),
        )
        self._variable = [position for position, level in enumerate(self.encoding.levels) if level > 1]

    def encode(self, architecture: Architecture) -> Code:
        """Return the code of an architecture's effective form, with one index for each position of `encoding`."""
        return tuple(
            allowed.index(block.value(primitive))
            for block, primitives in zip(self._space.effective(architecture), self._space.macro.blocks, strict=True)
            for primitive, allowed in primitives.items()
        )

    def decode(self, code: Code) -> Architecture:
        """Return the architecture of a code, the inverse of `encode` for effective architectures."""
        indices = iter(code)
        return Architecture(
            tuple(
                self._space.macro.make_block(position, tuple(allowed[next(indices)] for allowed in values))
                for position, values in enumerate(self._values)
            )
        )

    def sample(self, rng: KeyedRng) -> Code:
        """Return a random code, uniform over all codes."""
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
        """Return a code with `count` primitives changed to other values. If fewer primitives have several values,
        change all of these.
        """
        mutant = list(code)
        for place in rng.sample(len(self._variable), min(count, len(self._variable))):
            position = self._variable[place]
            other = rng.randbelow(self.encoding.levels[position] - 1)
            mutant[position] = other + (other >= code[position])
        return tuple(mutant)


def _are_numbers(values: Sequence[PrimitiveValue]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
