"""The tables of a report, with every value as text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eatnas_db.queries.ranking import RankedCandidate
from eatnas_db.queries.rungs import describe_rungs
from eatnas_protocol.long_texts import shorten_middle
from eatnas_report.data import ReportData
from eatnas_report.figures.lineage import HasLineage
from eatnas_report.formats import flatten, format_duration, format_number, format_time

MAX_CAUSES: Final = 10
MAX_FAILURES: Final = 20
MAX_FRONT_ROWS: Final = 50
MAX_LINEAGE_ROWS: Final = 50
MAX_MESSAGE_CHARACTERS: Final = 500
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A column of a table; `kind` is its class in the style sheet.

    Cells of the kind `candidate` hold ids, which become links if each candidate has a page of its own.
    """

    title: str
    kind: str = "text"


CANDIDATE: Final = ReportColumn("id", "candidate")


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The columns of a table, and its rows with one string for each column.

    Long text in the last column may wrap anywhere.
    """

    columns: tuple[ReportColumn, ...]
    rows: Sequence[Row]

    @property
    def has_titles(self) -> bool:
        """Whether any column has a title."""
        return any(column.title for column in self.columns)

    def cells(self, row: Row) -> Iterator[tuple[ReportColumn, str]]:
        """Yield the cells of a row with their columns."""
        return zip(self.columns, row, strict=True)


@dataclass(frozen=True, slots=True)
class OverviewItem:
    """A title and a value of the overview; `wide` is true if the value needs its own line.

    `candidate` is the id of the candidate that the value belongs to.
    """

    title: str
    value: str
    wide: bool = False
    candidate: int | None = None


def overview(data: ReportData, *, shows_fingerprint: bool = True) -> list[OverviewItem]:
    """Return the search's status, progress, best candidates and fingerprint."""
    progress = data.progress
    budget = progress.budget_device_seconds
    items = [
        OverviewItem("status", data.search.status),
        OverviewItem("candidates settled", f"{progress.done:,} of {progress.budget:,}"),
        OverviewItem("scored, failed, in training", f"{progress.scored:,}, {progress.failed:,}, {progress.leased:,}"),
        OverviewItem(
            "device time (h:mm:ss)",
            format_duration(progress.device_seconds) + ("" if budget is None else f" of {format_duration(budget)}"),
        ),
        *_best_items(data),
    ]
    if data.search.machine_dependence is not None:
        items.append(OverviewItem("machine-dependent", data.search.machine_dependence, wide=True))
    if data.rungs:
        items.append(OverviewItem("rungs", describe_rungs(data.rungs)))
    if progress.started_at is not None:
        items.append(OverviewItem("started", f"{format_time(progress.started_at)} UTC"))
    if progress.finished_at is not None:
        items.append(OverviewItem("finished", f"{format_time(progress.finished_at)} UTC"))
    if data.fingerprint is None and not shows_fingerprint:
        return items
    if data.fingerprint is None:
        command = f"eatnas-db query fingerprint {data.search.name}"
        items.append(OverviewItem("fingerprint", f"not computed for a search of this size; run {command}", wide=True))
    else:
        title = f"fingerprint of {data.fingerprint.candidates:,} candidates"
        items.append(OverviewItem(title, data.fingerprint.sha256, wide=True))
    return items


def _best_items(data: ReportData) -> Iterator[OverviewItem]:
    if data.fittest is not None:
        yield OverviewItem("best by score", f"{data.fittest.fitness:.4f}", candidate=data.fittest.id)
    best = data.best
    if best is not None and best.reevaluation is not None:
        measured = _with_spread(best.reevaluation, best.reevaluation_spread)
        yield OverviewItem("best by re-evaluation", measured, candidate=best.id)
    if best is not None and best.test is not None:
        models = f"{best.test_seeds} final model{'' if best.test_seeds == 1 else 's'}"
        if best.test_weights_from is not None:
            models += f" that started from the weights of {best.test_weights_from}"
        yield OverviewItem("test accuracy of the best", f"{_with_spread(best.test, best.test_spread)}, {models}")


def top_table(data: ReportData) -> ReportTable:
    """Return the table of the best candidates.

    The table has a column for re-evaluation scores only if a candidate has such a score, and likewise for test scores.
    It has a column for the last rung of each candidate only if a candidate has reached a second rung.
    """
    optional = [
        (title, values)
        for title, values in (
            ("reevaluation", [candidate.reevaluation for candidate in data.top]),
            ("test", [candidate.test for candidate in data.top]),
        )
        if any(value is not None for value in values)
    ]
    rung = ("rung",) if any(candidate.rung for candidate in data.top) else ()
    columns = (
        CANDIDATE,
        *_numbers("birth", "fitness", *rung, *(title for title, _ in optional), "params", "mult-adds"),
        *_texts("origin", "code"),
    )
    rows = [
        _top_row(candidate, [str(candidate.rung)] * len(rung), [values[number] for _, values in optional])
        for number, candidate in enumerate(data.top)
    ]
    return ReportTable(columns, rows)


def _top_row(candidate: RankedCandidate, rung: list[str], optional: list[float | None]) -> Row:
    return (
        str(candidate.id),
        str(candidate.birth),
        f"{candidate.fitness:.4f}",
        *rung,
        *("" if value is None else f"{value:.4f}" for value in optional),
        f"{candidate.params:,}",
        f"{candidate.mult_adds:,}",
        candidate.origin,
        # A zero-width space lets a long code wrap between its blocks.
        candidate.code.replace("/", "/\u200b"),
    )


def objective_front_table(data: ReportData) -> ReportTable:
    """Return the Pareto front of several objectives, with a column for each objective."""
    metrics = [objective.metric for objective in data.search.objectives]
    rows = [
        (
            str(candidate.id),
            str(candidate.birth),
            *map(format_number, candidate.by_metric(data.search.objectives).values()),
            candidate.origin,
            candidate.code.replace("/", "/\u200b"),
        )
        for candidate in data.objective_front[:MAX_FRONT_ROWS]
    ]
    return ReportTable((CANDIDATE, *_numbers("birth", *metrics), *_texts("origin", "code")), rows)


def lineage_table(data: HasLineage) -> ReportTable:
    """Return the table of a candidate and its most recent ancestors, ordered from oldest to newest."""
    relatives = data.lineage[::-1][-MAX_LINEAGE_ROWS:]
    columns = (CANDIDATE, *_texts("search"), *_numbers("birth"), *_texts("origin", "mutations"))
    rows = [
        (
            str(relative.id),
            relative.search,
            str(relative.birth),
            relative.origin,
            ", ".join(relative.changes) or "none",
            "" if relative.fitness is None else f"{relative.fitness:.4f}",
            "" if relative.gain is None else f"{relative.gain:+.4f}",
        )
        for relative in relatives
    ]
    return ReportTable((*columns, *_numbers("fitness", "gain")), rows)


def failure_table(data: ReportData) -> ReportTable:
    """Return the newest attempts that ended without a score, newest first."""
    newest = sorted(data.failures, key=lambda failure: failure.ended_at)[-MAX_FAILURES:][::-1]
    columns = (ReportColumn("candidate", "candidate"), *_numbers("attempt"), *_texts("candidate's state", "failure"))
    rows = [
        (
            str(failure.candidate_id),
            str(failure.attempt),
            failure.state,
            failure.failure,
            f"{failure.device_seconds:.1f}",
            shorten_middle(failure.message or "", MAX_MESSAGE_CHARACTERS),
        )
        for failure in newest
    ]
    return ReportTable((*columns, *_numbers("device seconds"), *_texts("message")), rows)


def time_table(data: ReportData) -> ReportTable:
    """Return the search's wall time, device time and speed."""
    utilisation = data.utilisation
    assert utilisation is not None
    rows = [
        ("wall time from the first to the last attempt, including pauses", format_duration(utilisation.wall_seconds)),
        ("device time", format_duration(utilisation.device_seconds)),
    ]
    if utilisation.candidates_per_hour is not None:
        rows.append(("candidates scored per hour", f"{utilisation.candidates_per_hour:,.1f}"))
    if utilisation.busy is not None:
        rows.append(("mean share of the wall time that a slot spent on this search", f"{utilisation.busy:.0%}"))
    return ReportTable(_texts("", ""), rows)


def slot_time_table(data: ReportData) -> ReportTable:
    """Return the time of all slots by use: training first, then the causes of idle time, longest first."""
    utilisation = data.utilisation
    assert utilisation is not None
    seconds_by_cause: dict[str, float] = defaultdict(float)
    for idle in utilisation.idle:
        seconds_by_cause[idle.cause] += idle.seconds
    total = utilisation.wall_seconds * len(utilisation.slots)
    longest = sorted(seconds_by_cause.items(), key=lambda item: -item[1])[:MAX_CAUSES]
    rows = [(cause, format_duration(seconds), f"{seconds / total:.1%}") for cause, seconds in longest]
    if utilisation.training is not None:
        time = format_duration(utilisation.device_seconds)
        rows.insert(0, ("(training and validation steps)", time, f"{utilisation.training:.1%}"))
    return ReportTable(_texts("slot time", "total", "share"), rows)


def spec_tables(data: ReportData) -> tuple[ReportTable, ReportTable]:
    """Return the spec of the search in two tables, which fit side by side."""
    rows = [(key, _spec_value(value)) for key, value in flatten(data.search.spec).items()]
    rows.append(("(data digest)", data.search.data_digest))
    half = -(-len(rows) // 2)
    columns = _texts("key", "value")
    return ReportTable(columns, rows[:half]), ReportTable(columns, rows[half:])


def version_table(data: ReportData) -> ReportTable:
    """Return the software versions and the device of the best candidate's training."""
    rows = [(name, version) for score in data.scores[:1] for name, version in score.versions.items()]
    rows += [("device", score.device) for score in data.scores[:1]]
    return ReportTable(_texts("component", "version"), rows)


def _spec_value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _with_spread(mean: float, spread: float | None) -> str:
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def _texts(*titles: str) -> tuple[ReportColumn, ...]:
    return tuple(ReportColumn(title) for title in titles)


def _numbers(*titles: str) -> tuple[ReportColumn, ...]:
    return tuple(ReportColumn(title, "number") for title in titles)
