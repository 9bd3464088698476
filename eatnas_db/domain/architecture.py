"""Architectures: blocks of five primitives, and their two notations.

The authors' notation is a list of integers, `[[2, 0, 1, 3, 1.0], …]` (op, kernel, skip, depth, width factor). The
readable notation is `mb6_k3_d4_w1.0_skip/sep_k5_d1_w0.5/…`. Both describe the same architectures and round-trip.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

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
"""The values of every primitive, cheapest first: an earlier value never makes a network larger."""

_READABLE: Final = re.compile(
    r"(?P<op>sep|mb3|mb6)_k(?P<kernel>[0-9])_d(?P<depth>[0-9])_w(?P<width>[0-9]\.[0-9])(?P<skip>_skip)?"
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block: `depth` layers of one operation and kernel; `width` is a factor for the base channels of the macro."""

    op: str
    kernel: int
    skip: bool
    depth: int
    width: float

    def __post_init__(self) -> None:
        for primitive, allowed in PRIMITIVES.items():
            value = getattr(self, primitive)
            if value not in allowed:
                raise InvalidArchitectureError(f"{primitive} {value!r} is not one of {', '.join(map(str, allowed))}")

    def __str__(self) -> str:
        skip = "_skip" if self.skip else ""
        return f"{self.op}_k{self.kernel}_d{self.depth}_w{self.width}{skip}"

    @classmethod
    @cache
    def of(cls, op: str, kernel: int, skip: bool, depth: int, width: float) -> Block:
        """Return the block with these values; there are only a few hundred, and each is made once."""
        return cls(op=op, kernel=kernel, skip=skip, depth=depth, width=width)

    def with_value(self, primitive: str, value: PrimitiveValue) -> Block:
        """Return a copy with one primitive changed."""
        return replace(self, **{primitive: value})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A genotype: the blocks between the stem and the head, in order."""

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InvalidArchitectureError("an architecture needs at least one block")

    def __str__(self) -> str:
        return "/".join(map(str, self.blocks))

    def __iter__(self) -> Iterator[Block]:
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
    """Return 32 hexadecimal digits that identify a network; `effective` is the result of `Space.effective`."""
    return hashlib.blake2b(str(effective).encode(), digest_size=16).hexdigest()


def _block_from_code(number: int, row: object) -> Block:
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != len(PRIMITIVES):
        raise InvalidArchitectureError(f"block {number}: expected [op, kernel, skip, depth, width], got {row!r}")
    indices = []
    for (primitive, allowed), index in zip(list(PRIMITIVES.items())[:4], row[:4], strict=True):
        is_wrong_boolean = isinstance(index, bool) and primitive != "skip"
        if is_wrong_boolean or not isinstance(index, int) or not 0 <= index < len(allowed):
            raise InvalidArchitectureError(
                f"block {number}: {primitive} code {index!r} is not one of 0 to {len(allowed) - 1}"
            )
        indices.append(index)
    op, kernel, skip, depth = indices
    width = row[4]
    if isinstance(width, bool) or not isinstance(width, int | float) or width not in WIDTHS:
        raise InvalidArchitectureError(f"block {number}: width {width!r} is not one of {', '.join(map(str, WIDTHS))}")
    return Block(op=OPS[op], kernel=KERNELS[kernel], skip=SKIPS[skip], depth=DEPTHS[depth], width=float(width))


def _block_from_text(number: int, text: str) -> Block:
    match = _READABLE.fullmatch(text.strip())
    if match is None:
        raise InvalidArchitectureError(
            f"block {number}: cannot parse {text!r}; expected a block like mb6_k3_d4_w1.0_skip or sep_k5_d1_w0.5"
        )
    try:
        return Block(
            op=match["op"],
            kernel=int(match["kernel"]),
            skip=match["skip"] is not None,
            depth=int(match["depth"]),
            width=float(match["width"]),
        )
    except InvalidArchitectureError as error:
        raise InvalidArchitectureError(f"block {number}: {error}") from None
