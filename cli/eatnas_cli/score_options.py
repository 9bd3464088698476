"""The options of `db import` for a file of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from eatnas_cli.task_values import DEFAULT_TASK, Channels, Classes, Resolution
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import VALIDATION_ACCURACY, Direction


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """The facts about a file of scores that the file does not contain."""

    space: str | None
    name: str | None
    task_name: str | None
    metric: str
    direction: Direction | None
    task: Task


def score_options(
    space: Annotated[
        str | None, typer.Option("--space", help="Name of the search space of the codes; required for a CSV file.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the new search. Default: the name of the file.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="A name that you choose for the data set of the scores. Default: the name of the file."
        ),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="Metric of the scores.")] = VALIDATION_ACCURACY,
    direction: Annotated[
        Direction | None,
        typer.Option(
            "--direction", help="Direction in which scores improve. Default: the usual direction of the metric."
        ),
    ] = None,
    resolution: Resolution = DEFAULT_TASK["resolution"],
    channels: Channels = DEFAULT_TASK["channels"],
    classes: Classes = DEFAULT_TASK["classes"],
) -> ScoreOptions:
    """Return the values of the options."""
    return ScoreOptions(space, name, task, metric, direction, Task(resolution, channels, classes))
