"""The result of an integrity check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

SHOWN: Final = 5
"""The maximum number of offenders that a violation lists."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold.

    `what` names the kind of offenders ("candidates", "files"), `count` is the number of offenders, and `examples` holds
    the ids or names of the first `SHOWN` offenders.
    """

    invariant: str
    what: str
    count: int
    examples: tuple[int | str, ...]

    def __str__(self) -> str:
        more = f", … {self.count} in total" if self.count > len(self.examples) else ""
        return f"violated: {self.invariant} ({self.what}: {', '.join(map(str, self.examples))}{more})"


NoteCallback = Callable[[str], None]
"""A function that is called with one sentence about a check that was not possible."""


def summarize_offenders(invariant: str, what: str, offenders: Iterable[int | str]) -> list[Violation]:
    """Return a list with the violation of one invariant, or an empty list if there are no offenders."""
    listed = list(offenders)
    return [Violation(invariant, what, len(listed), tuple(listed[:SHOWN]))] if listed else []
