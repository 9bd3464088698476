"""`search …`: create, show, watch and control searches."""

from __future__ import annotations

from typing import Final

from eatnas_cli.lazy_group import LazyCommand, LazyGroup, new_app

COMMANDS: Final = {
    "create": LazyCommand(
        "eatnas_cli.search.create", "Validate a spec and create its search with the initial population."
    ),
    "list": LazyCommand("eatnas_cli.search.summaries", "List all searches, the newest last."),
    "show": LazyCommand("eatnas_cli.search.status", "Show the status, the counters and the spec of a search."),
    "watch": LazyCommand(
        "eatnas_cli.search.watch", "Watch a search, without changing it, until it ends or you press Ctrl-C."
    ),
    "estimate": LazyCommand(
        "eatnas_cli.search.estimate",
        "Estimate the duration of a search by measuring a few sampled architectures on this machine.",
    ),
    "pause": LazyCommand(
        "eatnas_cli.search.control",
        "Pause a search: write checkpoints of its trainings and stop them. `search resume` continues it.",
    ),
    "resume": LazyCommand("eatnas_cli.search.control", "Resume a paused search."),
    "cancel": LazyCommand("eatnas_cli.search.control", "Cancel a search permanently; its history is kept."),
    "delete": LazyCommand(
        "eatnas_cli.search.delete",
        "Delete a search with its candidates, checkpoints and logs, unless another search depends on it.",
    ),
    "extend": LazyCommand("eatnas_cli.search.control", "Extend the budget of a search; a finished search continues."),
    "reevaluate": LazyCommand(
        "eatnas_cli.search.retrain",
        "Re-evaluate the best candidates: train each from scratch with new seeds, in a separate search.",
    ),
    "final": LazyCommand(
        "eatnas_cli.search.retrain",
        "Train the best candidates longer, on training and validation images, and evaluate them once on the test set.",
    ),
}


class SearchGroup(LazyGroup):
    """The commands of `search`."""

    lazy_commands = COMMANDS


app = new_app(cls=SearchGroup, no_args_is_help=True)


@app.callback()
def search() -> None:
    """Create, show, watch and control searches."""
