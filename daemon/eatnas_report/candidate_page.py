"""Render the live page of one candidate: its network, its learning curve, its attempts and its ancestors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from sqlalchemy import Connection

from eatnas_db.domain.macro import Task
from eatnas_db.queries.candidates import CandidateDetails, get_candidate, list_genotypes
from eatnas_db.queries.learning_curves import LearningCurve, list_learning_curves
from eatnas_db.queries.lineage import LineageEntry, ScoredChild, get_lineage, list_scored_children
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_protocol.long_texts import shorten_middle
from eatnas_report.architecture_drawing import draw_architecture
from eatnas_report.data import MAX_ANCESTORS, MAX_RELATED
from eatnas_report.figures.learning import draw_learning_curves
from eatnas_report.figures.lineage import lineage_figures
from eatnas_report.formats import format_duration, format_time
from eatnas_report.live_page import Fragment, render_live
from eatnas_report.sampling import sample_evenly
from eatnas_report.tables import MAX_MESSAGE_CHARACTERS, OverviewItem, ReportColumn, ReportTable, lineage_table
from eatnas_report.templating import render_template

MAX_ATTEMPTS: Final = 50
MAX_TRACEBACKS: Final = 5
MAX_TRACEBACK_CHARACTERS: Final = 20_000


@dataclass(frozen=True, slots=True)
class CandidateData:
    """A candidate with its search, its network, its learning curve and its ancestors (newest first).

    `lineage` and `related` (the other children of the ancestors) may be samples. `generations` and `related_total`
    count all candidates, including those that are not in the samples.
    """

    search: SearchRecord
    details: CandidateDetails
    genotype: str
    curves: tuple[LearningCurve, ...]
    lineage: tuple[LineageEntry, ...]
    generations: int
    related: tuple[ScoredChild, ...]
    related_total: int


def load_candidate_data(connection: Connection, candidate_id: int) -> CandidateData:
    """Read the data for the page of a candidate. Raises `NotFoundError`."""
    details = get_candidate(connection, candidate_id)
    search = get_search(connection, details.search)
    ancestors = get_lineage(connection, candidate_id)
    lineage = tuple(sample_evenly(ancestors, MAX_ANCESTORS))
    related = list_scored_children(connection, [relative.id for relative in lineage])
    return CandidateData(
        search=search,
        details=details,
        genotype=list_genotypes(connection, [candidate_id])[candidate_id],
        curves=list_learning_curves(connection, [candidate_id], search.objective.metric),
        lineage=lineage,
        generations=len(ancestors),
        related=tuple(sample_evenly(related, MAX_RELATED)),
        related_total=len(related),
    )


def render_candidate(data: CandidateData) -> str:
    """Return the page of a candidate."""
    return render_live(
        "live_candidate.html.jinja",
        title=f"Candidate {data.details.id}",
        candidate=data.details.id,
        search=data.details.search,
        fragment=candidate_fragment(data),
    )


def candidate_fragment(data: CandidateData) -> Fragment:
    """Return the changing part of the page of a candidate."""
    details = data.details
    title = f"candidate {details.id}, birth {details.birth}"
    drawing = draw_architecture(data.genotype, data.search.macro, Task(**data.search.task), title)
    curves = draw_learning_curves(data.curves, data.search.objective, "this candidate")
    lineage = lineage_figures(data)
    html = render_template(
        "live_candidate_parts.html.jinja",
        overview=list(_overview(details)),
        prediction=details.prediction,
        drawing=Markup(drawing),  # noqa: S704 - a template of this package escaped it
        curves=curves,
        scores=_score_table(details),
        rungs=_rung_table(details),
        attempts=_attempt_table(details),
        attempts_total=len(details.attempts),
        tracebacks=_tracebacks(details),
        lineage=lineage,
        lineage_table=lineage_table(data),
        generations=data.generations,
    )
    return Fragment(html, {figure.id: json.loads(figure.plot.to_json()) for figure in (*curves, *lineage)})


def _overview(details: CandidateDetails) -> Iterator[OverviewItem]:
    seconds = sum(attempt.device_seconds for attempt in details.attempts)
    yield OverviewItem("state", details.state)
    yield OverviewItem("fitness", "none" if details.fitness is None else f"{details.fitness:.4f}")
    yield OverviewItem("birth, origin", f"{details.birth}, {details.origin}")
    if details.parent_id is not None:
        yield OverviewItem("parent", "", candidate=details.parent_id)
    yield OverviewItem("parameters", f"{details.params:,}")
    yield OverviewItem("mult-adds", f"{details.mult_adds:,}")
    yield OverviewItem("device time (h:mm:ss)", format_duration(seconds))
    if details.share_inherited is not None:
        yield OverviewItem("inherited weights", f"{details.share_inherited:.1%}")
    if details.weights_from is not None:
        yield OverviewItem("weights from", details.weights_from)
    if details.joined is not None:
        left = "" if details.left is None else f", left after step {details.left}"
        yield OverviewItem("population", f"joined after step {details.joined}{left}")
    yield OverviewItem("created", f"{format_time(details.created_at)} UTC")
    if details.ended_at is not None:
        yield OverviewItem("ended", f"{format_time(details.ended_at)} UTC")
    yield OverviewItem("mutations", ", ".join(details.changes) or "none", wide=True)
    yield OverviewItem("code", details.code.replace("/", "/\u200b"), wide=True)


def _score_table(details: CandidateDetails) -> ReportTable:
    columns = (
        ReportColumn("metric"),
        ReportColumn("seed", "number"),
        ReportColumn("value", "number"),
        ReportColumn("attempt", "number"),
        ReportColumn("device"),
    )
    rows = [
        (score.metric, str(score.seed), f"{score.value:,.6g}", str(score.attempt), score.device)
        for score in details.scores
    ]
    return ReportTable(columns, rows)


def _rung_table(details: CandidateDetails) -> ReportTable:
    columns = (
        *(ReportColumn(title, "number") for title in ("rung", "epochs", "attempt", "fitness")),
        ReportColumn("continued"),
    )
    continued = {None: "not decided", True: "yes", False: "no"}
    rows = [
        (str(row.rung), str(row.epochs), str(row.attempt), f"{row.fitness:.4f}", continued[row.promoted])
        for row in details.rungs
    ]
    return ReportTable(columns, rows)


def _attempt_table(details: CandidateDetails) -> ReportTable:
    columns = (
        ReportColumn("attempt", "number"),
        ReportColumn("started (UTC)"),
        ReportColumn("ended (UTC)"),
        ReportColumn("outcome"),
        ReportColumn("device seconds", "number"),
        ReportColumn("message"),
    )
    rows = [
        (
            str(attempt.number),
            format_time(attempt.started_at),
            "" if attempt.ended_at is None else format_time(attempt.ended_at),
            ", ".join(filter(None, (attempt.outcome or "in training", attempt.failure))),
            f"{attempt.device_seconds:,.1f}",
            shorten_middle(attempt.message or "", MAX_MESSAGE_CHARACTERS),
        )
        for attempt in details.attempts[-MAX_ATTEMPTS:]
    ]
    return ReportTable(columns, rows)


def _tracebacks(details: CandidateDetails) -> list[tuple[int, str]]:
    """Return the last tracebacks with the numbers of their attempts."""
    failed = [attempt for attempt in details.attempts if attempt.traceback]
    return [
        (attempt.number, shorten_middle(attempt.traceback or "", MAX_TRACEBACK_CHARACTERS))
        for attempt in failed[-MAX_TRACEBACKS:]
    ]
