"""A family of candidates as a tree on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from eatnas_cli.tables import WIDE, console
from eatnas_db.queries.lineage import LineageEntry


def print_lineage_tree(relatives: Sequence[LineageEntry]) -> None:
    """Print a family as a tree from its eldest, each branch with what changed and what that gained."""
    several = len({relative.search for relative in relatives}) > 1
    known = {relative.id: relative for relative in relatives}
    trees: dict[int, Tree] = {}
    root: Tree | None = None
    # A child's id is always higher than its parent's, in whatever search it was born.
    for relative in sorted(relatives, key=lambda one: one.id):
        parent = known.get(relative.parent_id or 0)
        moved = several and (parent is None or parent.search != relative.search)
        label = _label(relative, f"{relative.search}: " if moved else "")
        if parent is not None:
            trees[relative.id] = trees[parent.id].add(label)
        else:
            root = trees[relative.id] = Tree(label)
    if root is not None:
        # Never folded: a long line of descent is wider than any terminal.
        console(WIDE).print(root)


def _label(relative: LineageEntry, place: str) -> Text:
    fitness = relative.state if relative.fitness is None else f"{relative.fitness:.4f}"
    gain = "" if relative.gain is None else f" ({relative.gain:+.4f})"
    changes = f": {', '.join(relative.changes)}" if relative.changes else ""
    share = relative.share_inherited
    behind = "" if share is None else f", {share:.0%} inherited, {relative.lineage_epochs} epochs behind it"
    return Text(f"{place}{relative.id}, birth {relative.birth}, {relative.origin}{changes}, {fitness}{gain}{behind}")
