"""`query …`: queries of the database."""

from __future__ import annotations

from typing import Final

from eatnas_cli.lazy_group import LazyCommand, LazyGroup, new_app

COMMANDS: Final = {
    "best": LazyCommand(
        "eatnas_cli.query.ranking",
        "List the best candidates of a search, with the results of their re-evaluations and tests.",
    ),
    "lineage": LazyCommand(
        "eatnas_cli.query.family", "Show the ancestors of a candidate and every mutation since the first ancestor."
    ),
    "descendants": LazyCommand("eatnas_cli.query.family", "Show the descendants of a candidate."),
    "population": LazyCommand(
        "eatnas_cli.query.population", "List the members of the population, now or after a step."
    ),
    "quality": LazyCommand("eatnas_cli.query.quality", "Show the quality of the population after each step."),
    "compare": LazyCommand(
        "eatnas_cli.query.quality", "Compare the device seconds that searches needed to reach the same quality."
    ),
    "primitives": LazyCommand(
        "eatnas_cli.query.population",
        "Show, for each value of a primitive, its share of the population over time and its mean fitness.",
    ),
    "mutations": LazyCommand(
        "eatnas_cli.query.population",
        "Show the number of mutations of each kind and their effect on the fitness.",
    ),
    "pareto": LazyCommand(
        "eatnas_cli.query.pareto",
        "List the Pareto front: the candidates that no other candidate dominates in metric and cost.",
    ),
    "calibration": LazyCommand(
        "eatnas_cli.query.calibration",
        "Compare the fitness that the model predicted for guided births with the fitness that they reached.",
    ),
    "utilisation": LazyCommand(
        "eatnas_cli.query.utilisation",
        "Show the device seconds of a search, the utilisation of its slots, and why slots were idle.",
    ),
    "sql": LazyCommand("eatnas_cli.query.sql", "Run a SELECT statement; it cannot change anything."),
    "events": LazyCommand("eatnas_cli.query.events", "List the latest events, the newest last."),
    "failures": LazyCommand("eatnas_cli.query.failures", "List failed and lost attempts with their reasons."),
    "fingerprint": LazyCommand(
        "eatnas_cli.query.fingerprint",
        "Print the fingerprint of a search: a digest that is equal on all machines if the histories are equal.",
    ),
}


class QueryGroup(LazyGroup):
    """The commands of `query`."""

    lazy_commands = COMMANDS


app = new_app(cls=QueryGroup, no_args_is_help=True)


@app.callback()
def query() -> None:
    """Query the database."""
