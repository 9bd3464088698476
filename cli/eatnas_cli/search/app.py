"""`search …`: everything that a user does with a search."""

from __future__ import annotations

from typing import Final

from eatnas_cli.lazy_group import LazyCommand, LazyGroup, new_app

COMMANDS: Final = {
    "create": LazyCommand(
        "eatnas_cli.search.create", "Check a spec and put its search, with the initial population, into the record."
    ),
    "list": LazyCommand("eatnas_cli.search.status", "All searches, the newest last."),
    "show": LazyCommand("eatnas_cli.search.status", "One search: its status, counters and spec."),
    "watch": LazyCommand(
        "eatnas_cli.search.watch", "Watch a search until it ends or you press Ctrl-C; nothing is changed."
    ),
    "estimate": LazyCommand(
        "eatnas_cli.search.estimate",
        "Time a few sampled architectures on this machine, and say how long the search would take. Writes nothing.",
    ),
    "pause": LazyCommand("eatnas_cli.search.control", "Checkpoint what is in training and stop; `resume` goes on."),
    "resume": LazyCommand("eatnas_cli.search.control", "Go on with a paused search."),
    "cancel": LazyCommand("eatnas_cli.search.control", "End a search for good; its history stays."),
    "extend": LazyCommand("eatnas_cli.search.control", "Give a search more to do; reopens a finished one."),
    "reevaluate": LazyCommand(
        "eatnas_cli.search.retrain",
        "Measure the best again: each trained from scratch with fresh seeds, in a search of its own.",
    ),
    "final": LazyCommand(
        "eatnas_cli.search.retrain",
        "Train the winners longer, on training and validation images, and look once at the test set.",
    ),
}


class SearchGroup(LazyGroup):
    """What a user does with a search."""

    lazy_commands = COMMANDS


app = new_app(cls=SearchGroup, no_args_is_help=True)


@app.callback()
def search() -> None:
    """Create searches and steer them."""
