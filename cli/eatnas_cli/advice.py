"""Print the advice about a planned search."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from eatnas_cli.printing import Layout, show
from eatnas_cli.sentences import print_command, print_sentence
from eatnas_daemon.data_sets import DataDescription
from eatnas_db.database.engine import opened_engine
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.errors import RecordError
from eatnas_db.search_advice import SOURCE_TRAININGS, SearchAdvice, advise
from eatnas_db.settings import Settings
from eatnas_db.spaces import space_of_spec

SHOWN_SOURCES: Final = 10
SOURCE_COLUMNS: Final = ("search", "scores", "correlation", "error", "networks", "verdict")
COMMAND_START: Final = "eatnas-db "
"""The start of a suggested command. A command is printed on lines of its own."""


def advise_on(
    settings: Settings, spec: SearchSpec, task: Task, data: DataDescription, file: Path, changes: Sequence[str]
) -> SearchAdvice:
    """Return the advice about a planned search. Without a record, the advice comes from the spec alone.

    `file` is the spec file, and `changes` are the user's changes to it. Suggested commands contain the file and the
    changes.
    """
    space = Space(space_of_spec(spec), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    with ExitStack() as stack:
        engine: Engine | None = None
        with suppress(RecordError):
            engine = stack.enter_context(opened_engine(settings.database_url))
        return advise(
            engine,
            spec,
            space,
            data_digest=data.data_digest,
            train_images=data.train_images,
            file=str(file),
            changes=changes,
        )


def print_advice(advice: SearchAdvice) -> None:
    """Print the facts about a planned search, and how to get the facts that are missing."""
    for sentence in _describe_scores(advice):
        print_sentence(sentence)
    smaller = advice.smaller
    if smaller is not None:
        side = smaller.resolution
        print_sentence(
            f"a smaller task ({side}x{side}, {smaller.train_images} images, {_count(smaller.epochs, 'epoch')}): a "
            f"training costs {smaller.share:.1%} of a training of this task, so a search of {SOURCE_TRAININGS} "
            f"candidates costs as much as {smaller.trainings:.1f} candidates of this task"
        )
    if advice.sources:
        reference = next((source.reference for source in advice.sources if source.reference), None)
        compared = f", compared with {reference} of this task" if reference else ""
        print_sentence(f"finished searches that may be sources (transfer.start: model){compared}:")
        show(advice.sources[:SHOWN_SOURCES], SOURCE_COLUMNS, layout=Layout(wide=True))
    for sentence in advice.missing:
        text, start, command = sentence.partition(COMMAND_START)
        print_sentence(text.rstrip())
        if start:
            print_command(start + command)


def _describe_scores(advice: SearchAdvice) -> list[str]:
    lines = []
    if (noise := advice.noise) is not None:
        lines.append(
            f"noise of one score: {noise.deviation:.4g} ({noise.trainings} trainings of {noise.networks} networks in "
            f"{', '.join(noise.searches)}{_other_task(noise.same_task)})"
        )
    if (spread := advice.spread) is not None:
        kind = "late" if spread.late else "first"
        lines.append(
            f"spread of a {kind} population: {spread.deviation:.4g} ({', '.join(spread.searches)}"
            f"{_other_task(spread.same_task)})"
        )
    if spread is not None and spread.deviation == 0:
        lines.append(
            "all networks of that population have the same score: train longer, or with more validation images, so "
            "that scores can tell networks apart"
        )
    if (found := advice.resolution) is not None:
        planned = "the spec re-evaluates no candidate"
        if seeds := advice.reevaluation_seeds:
            planned = f"the spec has {seeds}: {'enough' if seeds >= found.seeds else 'too few'}"
        lines.append(
            f"the noise of one score is {found.ratio:.2g} times the spread; to rank two networks whose scores differ "
            f"by one spread, the re-evaluation needs {_count(found.seeds, 'seed')} ({planned})"
        )
        if found.ratio > 1:
            lines.append(
                "a single score cannot rank a late population: train longer, or with more validation images, or use "
                "evolution.births: guided, which averages over similar networks"
            )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _other_task(same_task: bool) -> str:
    return "" if same_task else "; of another task or recipe"
