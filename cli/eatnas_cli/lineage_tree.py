"""Print a family of candidates as a tree on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from eatnas_cli.sentences import fold_sentence
from eatnas_cli.values import count_of
from eatnas_db.queries.lineage import LineageEntry
from eatnas_db.text_encoding import escape_controls

SMALLEST_WIDTH: Final = 32
"""The minimum number of columns for the description of a candidate, without the branches in front of it."""


def print_lineage_tree(entries: Sequence[LineageEntry], width: int | None = None) -> bool:
    """Print a family as a tree that starts with its oldest member. Each member shows its changes and its gain.

    Lines are folded to `width`. If the family has too many generations for this width, print nothing and return False.
    """
    lines = list(_lines(entries, width))
    if width is not None and any(line.room < SMALLEST_WIDTH for line in lines):
        return False
    for line in lines:
        sys.stdout.writelines(f"{text}\n" for text in line.texts)
    return True


class _Member(NamedTuple):
    """The lines of a member, and the number of terminal columns that its description may take."""

    texts: Sequence[str]
    room: int


def _lines(entries: Sequence[LineageEntry], width: int | None) -> Iterator[_Member]:
    known = {entry.id: entry for entry in entries}
    has_rungs = any(entry.rung for entry in entries)
    has_several_searches = len({entry.search for entry in entries}) > 1
    children: dict[int | None, list[LineageEntry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.id):
        parent = known.get(entry.parent_id or 0)
        children.setdefault(None if parent is None else parent.id, []).append(entry)
    # Do not use recursion: a family may have more generations than Python's stack has frames.
    waiting = [(entry, "", "") for entry in reversed(children.get(None, []))]
    while waiting:
        entry, indent, branch = waiting.pop()
        parent = known.get(entry.parent_id or 0)
        has_moved = has_several_searches and (parent is None or parent.search != entry.search)
        text = escape_controls(_describe(entry, f"{entry.search}: " if has_moved else "", has_rungs=has_rungs))
        below = indent + {"": "", "├── ": "│   ", "└── ": "    "}[branch]
        members = children.get(entry.id, [])
        folded = below + ("│   " if members else "    ")
        room = len(text) if width is None else width - len(folded)
        first, *others = [text] if width is None else fold_sentence(text, room)
        yield _Member((indent + branch + first, *(folded + other for other in others)), room)
        waiting += [(member, below, "└── " if member is members[-1] else "├── ") for member in reversed(members)]


def _describe(entry: LineageEntry, place: str, *, has_rungs: bool) -> str:
    fitness = entry.state if entry.fitness is None else f"{entry.fitness:.4f}"
    if has_rungs and entry.fitness is not None:
        fitness += f" at rung {entry.rung}"
    gain = "" if entry.gain is None else f" ({entry.gain:+.4f})"
    changes = f": {', '.join(entry.changes)}" if entry.changes else ""
    share, epochs = entry.share_inherited, entry.lineage_epochs
    inherited = ""
    if share is not None and epochs is not None:
        inherited = f", {share:.0%} inherited, {count_of(epochs, 'epoch')} in total"
    if entry.weights_from is not None:
        inherited = f", starts from {entry.weights_from}{inherited}"
    reason = "" if entry.reason is None else f". {entry.reason}"
    return f"{place}{entry.id}, birth {entry.birth}, {entry.origin}{changes}, {fitness}{gain}{inherited}{reason}"
