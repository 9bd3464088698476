"""`query …`: the questions that the record answers, each in SQL."""

from __future__ import annotations

from typing import Final

from eatnas_cli.lazy_group import LazyCommand, LazyGroup, new_app

COMMANDS: Final = {
    "best": LazyCommand(
        "eatnas_cli.query.ranking",
        "The fittest candidates of a search, with what the re-evaluation and the test set said of them.",
    ),
    "lineage": LazyCommand("eatnas_cli.query.family", "Where a candidate comes from: every mutation from its root on."),
    "descendants": LazyCommand("eatnas_cli.query.family", "What came of a candidate: its children, theirs, and so on."),
    "population": LazyCommand("eatnas_cli.query.population", "Who lives in the population, now or after any step."),
    "quality": LazyCommand("eatnas_cli.query.quality", "How good the population was after each step."),
    "compare": LazyCommand(
        "eatnas_cli.query.quality", "How many device seconds each search took to reach the same quality."
    ),
    "primitives": LazyCommand(
        "eatnas_cli.query.population",
        "Which values of which block survive: their share of the population over time, and how fit they are.",
    ),
    "mutations": LazyCommand(
        "eatnas_cli.query.population",
        "Which kinds of change paid: how often, and what a child gained on its parent.",
    ),
    "pareto": LazyCommand("eatnas_cli.query.pareto", "The candidates that no other beats at both accuracy and cost."),
    "utilisation": LazyCommand(
        "eatnas_cli.query.history",
        "What a search took of each slot, how much of the time the slots were at it, and why they were not.",
    ),
    "sql": LazyCommand("eatnas_cli.query.sql", "Ask in SQL. Nothing can be changed this way."),
    "events": LazyCommand("eatnas_cli.query.history", "What happened lately, the newest last."),
    "failures": LazyCommand("eatnas_cli.query.history", "Which attempts failed or were lost, and why."),
    "fingerprint": LazyCommand(
        "eatnas_cli.query.history", "One line that is equal for equal histories, whenever and wherever they ran."
    ),
}


class QueryGroup(LazyGroup):
    """The questions."""

    lazy_commands = COMMANDS


app = new_app(cls=QueryGroup, no_args_is_help=True)


@app.callback()
def query() -> None:
    """Ask the record."""
