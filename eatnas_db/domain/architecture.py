"""Architectures, their blocks of five primitives, and the two notations of an architecture.

The authors' notation is a list of numbers for each block, `[[2, 0, 1, 3, 1.0], …]` (op, kernel, skip, depth, width
factor). The readable notation is `mb6_k3_d4_w1.0_skip/sep_k5_d1_w0.5/…`. Both describe the same architectures and
round-trip.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from eatnas_db.errors import InvalidArchitectureError

OPS: Final = ("sep", "mb3", "mb6")
KERNELS: Final = (3, 5, 7)
SKIPS: Final = (False, True)
DEPTHS: Final = (1, 2, 3, 4)
WIDTHS: Final = (0.5, 1.0, 1.5, 2.0)

PrimitiveValue = str | int | bool | float

PRIMITIVES: Final[dict[str, tuple[PrimitiveValue, ...]]] = {
    "op": OPS,
    "kernel": KERNELS,
    "skip": SKIPS,
    "depth": DEPTHS,
    "width": WIDTHS,
}
"""The values of each primitive in ascending order of cost: replacing a value by an earlier one never makes a network
larger.
"""

_READABLE: Final = re.compile(
    r"(?P<op>[A-Za-z][A-Za-z0-9]*)_k(?P<kernel>[0-9])_d(?P<depth>[0-9])_w(?P<width>[0-9]\.[0-9])(?P<skip>_skip)?"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of `depth` equal layers. `kernel` is in pixels; `width` multiplies the base channels of the macro."""

    op: str
    kernel: int
    skip: bool
    depth: int
    width: float

    def __post_init__(self) -> None:
        _require_allowed(self, PRIMITIVES)

    def __str__(self) -> str:
        skip = "_skip" if self.skip else ""
        return f"{self.op}_k{self.kernel}_d{self.depth}_w{self.width}{skip}"

    @classmethod
    @cache
    def of(cls, op: str, kernel: int, skip: bool, depth: int, width: float) -> Block:
        """Return the block with these values. There are only a few hundred different blocks, and each block is created
        only once.
        """
        return cls(op=op, kernel=kernel, skip=skip, depth=depth, width=width)

    @property
    def primitives(self) -> Iterable[str]:
        """The names of the primitives."""
        return PRIMITIVES

    def value(self, primitive: str) -> PrimitiveValue:
        """Return the value of a primitive."""
        value: PrimitiveValue = getattr(self, primitive)
        return value

    def with_value(self, primitive: str, value: PrimitiveValue) -> Block:
        """Return a copy with one primitive changed."""
        return replace(self, **{primitive: value})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class OperatorBlock(Block):
    """A block of a space whose operators may come from packages. The space checks the operator of the block."""

    def __post_init__(self) -> None:
        _require_allowed(self, [primitive for primitive in PRIMITIVES if primitive != "op"])


@dataclass(frozen=True, slots=True)
class ChoiceBlock:
    """A block of named choices, which is written as `op=conv,kernel=3`."""

    choices: tuple[tuple[str, PrimitiveValue], ...]

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.choices)

    @classmethod
    def parse(cls, text: str, primitives: Mapping[str, Sequence[PrimitiveValue]]) -> ChoiceBlock:
        """Parse the notation of a block with these primitives. Raises `InvalidArchitectureError`."""
        parts = text.split(",")
        if len(parts) != len(primitives):
            raise InvalidArchitectureError(f"expected a value for each of {', '.join(primitives)}, got {text!r}")
        choices = []
        for part, (name, allowed) in zip(parts, primitives.items(), strict=True):
            written = part.strip().removeprefix(f"{name}=")
            value = next((value for value in allowed if str(value) == written), None)
            if value is None:
                raise InvalidArchitectureError(f"{name} {written!r} is not one of {', '.join(map(str, allowed))}")
            choices.append((name, value))
        return cls(tuple(choices))

    @property
    def primitives(self) -> Iterable[str]:
        """The names of the primitives."""
        return [name for name, _ in self.choices]

    def value(self, primitive: str) -> PrimitiveValue:
        """Return the value of a primitive."""
        return next(value for name, value in self.choices if name == primitive)

    def with_value(self, primitive: str, value: PrimitiveValue) -> ChoiceBlock:
        """Return a copy with one primitive changed."""
        return ChoiceBlock(tuple((name, value if name == primitive else old) for name, old in self.choices))


@dataclass(frozen=True, slots=True)
class Architecture:
    """A genotype: the blocks between the stem and the head, in order. The space defines the type of the blocks."""

    blocks: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InvalidArchitectureError("an architecture needs at least one block")

    def __str__(self) -> str:
        return "/".join(map(str, self.blocks))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)

    def with_block(self, position: int, block: Block) -> Architecture:
        """Return a copy with the block at `position` (from 0) replaced."""
        return Architecture((*self.blocks[:position], block, *self.blocks[position + 1 :]))

    def to_code(self) -> list[list[int | float]]:
        """Return the authors' notation: `[op, kernel, skip, depth, width factor]` for each block."""
        return [[OPS.index(b.op), KERNELS.index(b.kernel), int(b.skip), b.depth - 1, b.width] for b in self.blocks]

    @classmethod
    def from_code(cls, code: object) -> Architecture:
        """Parse the authors' notation. Raises `InvalidArchitectureError`, which names the block and the value."""
        if not isinstance(code, Sequence) or isinstance(code, str):
            raise InvalidArchitectureError(f"expected a list of blocks, got {code!r}")
        return cls(tuple(_block_from_code(number, row) for number, row in enumerate(code, 1)))

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Parse the readable notation. Raises `InvalidArchitectureError`, which names the block and the text."""
        return cls(tuple(_block_from_text(number, part) for number, part in enumerate(text.split("/"), 1)))


def architecture_digest(effective: Architecture) -> str:
    """Return 32 hexadecimal digits that identify a network of EAT-NAS; `effective` is a result of `Space.effective`."""
    return text_digest(str(effective))


def text_digest(text: str) -> str:
    """Return 32 hexadecimal digits that identify a string."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _block_from_code(number: int, row: object) -> Block:
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != len(PRIMITIVES):
        raise InvalidArchitectureError(f"block {number}: expected [op, kernel, skip, depth, width], got {row!r}")
    indices = []
    for (primitive, allowed), index in zip(list(PRIMITIVES.items())[:4], row[:4], strict=True):
        is_wrong_boolean = isinstance(index, bool) and primitive != "skip"
        if is_wrong_boolean or not isinstance(index, int) or not 0 <= index < len(allowed):
            raise InvalidArchitectureError(
                f"block {number}: {primitive} code {index!r} is not from 0 to {len(allowed) - 1}"
            )
        indices.append(index)
    op, kernel, skip, depth = indices
    width = row[4]
    if isinstance(width, bool) or not isinstance(width, int | float) or width not in WIDTHS:
        raise InvalidArchitectureError(f"block {number}: width {width!r} is not one of {', '.join(map(str, WIDTHS))}")
    return Block(op=OPS[op], kernel=KERNELS[kernel], skip=SKIPS[skip], depth=DEPTHS[depth], width=float(width))


def parse_block(text: str, operators: Collection[str] = OPS) -> Block:
    """Parse one block in the readable notation.

    Raises `InvalidArchitectureError`; the caller adds the number of the block.
    """
    match = _READABLE.fullmatch(text.strip())
    if match is None or match["op"] not in operators:
        known = "" if operators == OPS else f" (operators: {', '.join(operators)})"
        raise InvalidArchitectureError(
            f"cannot parse {text!r}; expected a block like mb6_k3_d4_w1.0_skip or sep_k5_d1_w0.5{known}"
        )
    block_class = Block if operators == OPS else OperatorBlock
    return block_class(
        op=match["op"],
        kernel=int(match["kernel"]),
        skip=match["skip"] is not None,
        depth=int(match["depth"]),
        width=float(match["width"]),
    )


def _block_from_text(number: int, text: str) -> Block:
    try:
        return parse_block(text)
    except InvalidArchitectureError as error:
        raise InvalidArchitectureError(f"block {number}: {error}") from None


def _require_allowed(block: Block, primitives: Iterable[str]) -> None:
    for primitive in primitives:
        value, allowed = getattr(block, primitive), PRIMITIVES[primitive]
        if value not in allowed:
            raise InvalidArchitectureError(f"{primitive} {value!r} is not one of {', '.join(map(str, allowed))}")
