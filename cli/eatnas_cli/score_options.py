"""The options of `db import` for a file of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from eatnas_cli.task_values import DEFAULT_TASK, MAX_VALUES
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import VALIDATION_ACCURACY, Direction

IMAGES = "Of the images, for the counted cost of the networks."


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
    space: Annotated[str | None, typer.Option("--space", help="Search space of the codes in a file of scores.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the search. Default: that of the file.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Data set of the scores, in your words. Default: name of the file.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="Metric of the scores.")] = VALIDATION_ACCURACY,
    direction: Annotated[
        Direction | None, typer.Option("--direction", help="Whether a larger or a smaller score is better.")
    ] = None,
    resolution: Annotated[int, typer.Option(min=1, max=MAX_VALUES["resolution"], help=IMAGES)] = DEFAULT_TASK[
        "resolution"
    ],
    channels: Annotated[int, typer.Option(min=1, max=MAX_VALUES["channels"], help=IMAGES)] = DEFAULT_TASK["channels"],
    classes: Annotated[int, typer.Option(min=1, max=MAX_VALUES["classes"], help=IMAGES)] = DEFAULT_TASK["classes"],
) -> ScoreOptions:
    """Collect the options."""
    return ScoreOptions(space, name, task, metric, direction, Task(resolution, channels, classes))
