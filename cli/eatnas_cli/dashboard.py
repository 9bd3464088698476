"""`search watch` on a terminal: budgets, quality curve, best candidates and slots, redrawn twice a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from eatnas_daemon.search_status import describe_status, is_supervised
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.queries.progress import SearchCounters, get_progress
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import RankedCandidate, list_best
from eatnas_db.queries.searches import get_open_reevaluation, get_search
from eatnas_db.queries.training_activity import TrainingActivity, list_training_activity
from eatnas_db.settings import Settings
from eatnas_report.formats import format_duration
from eatnas_report.terminal import draw_curves

REFRESH_SECONDS: Final = 0.5
LEADERS: Final = 5
RECENT_STEPS: Final = 50
"""The number of latest births from which the pace is computed."""
FEW_STEPS: Final = 10
MAX_STEPS: Final = 1000
MAX_SLOTS: Final = 16
BAR_WIDTH: Final = 40
BUDGET_STYLE: Final = "#0072B2"


@dataclass(frozen=True, slots=True)
class DashboardView:
    """The state of a search at one moment. `births_per_second` is None if there are too few births."""

    name: str
    status: str
    progress: SearchCounters
    steps: Sequence[PopulationStep] = ()
    leaders: Sequence[RankedCandidate] = ()
    work: Sequence[TrainingActivity] = ()
    births_per_second: float | None = None
    error: str | None = None


def draw(view: DashboardView, now: float, width: int, height: int) -> RenderableType:
    """Draw a search for a terminal with `width` columns and `height` lines."""
    slots = view.work[:MAX_SLOTS]
    room = height - 15 - len(view.leaders) - max(1, len(slots))
    parts: list[RenderableType] = [_headline(view), _budgets(view), Text()]
    if view.error:
        parts.append(Text(view.error, style="bold red"))
    parts += [Rule("quality of the population", align="left"), _curve(view.steps, width, min(12, max(4, room)))]
    parts += [Rule("the best so far", align="left"), _leaders(view.leaders)]
    parts += [Rule("in training", align="left"), _slots(view, slots, now)]
    return Group(*parts)


def _headline(view: DashboardView) -> Text:
    line = Text(view.name, style="bold")
    line.append(f"  {view.status}", style="green" if view.status in ("running", "finished") else "yellow")
    counters = view.progress
    line.append(
        f"   {counters.scored:,} scored, {counters.failed:,} failed, {counters.leased:,} in training", style="default"
    )
    return line


def _budgets(view: DashboardView) -> Table:
    counters, pace = view.progress, view.births_per_second
    table = Table.grid(padding=(0, 2))
    seconds = None if not pace else max(0, counters.budget - counters.settled) / pace
    rate = "" if not pace else f"{60 * pace:,.1f} per minute"
    count = f"{counters.settled:,}/{counters.budget:,}"
    table.add_row("candidates", _bar(counters.settled, counters.budget), count, rate, _left(view, seconds))
    if counters.budget_device_seconds is not None:
        seconds_per_candidate = counters.device_seconds / counters.settled if counters.settled else 0.0
        remaining = max(0.0, counters.budget_device_seconds - counters.device_seconds)
        table.add_row(
            "device hours",
            _bar(counters.device_seconds, counters.budget_device_seconds),
            f"{counters.device_seconds / 3600:.2f}/{counters.budget_device_seconds / 3600:g}",
            f"{seconds_per_candidate:,.1f} s per candidate" if seconds_per_candidate else "",
            _left(view, remaining / (seconds_per_candidate * pace) if seconds_per_candidate and pace else None),
        )
    else:
        table.add_row("device hours", "", f"{counters.device_seconds / 3600:.2f}", "no limit", "")
    return table


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(total, 1e-9), completed=min(done, total), width=BAR_WIDTH, complete_style=BUDGET_STYLE)


def _left(view: DashboardView, seconds: float | None) -> str:
    if view.status != "running" or seconds is None:
        return ""
    return f"{format_duration(seconds)} left"


def _curve(steps: Sequence[PopulationStep], width: int, height: int) -> Text:
    scored = [step for step in steps if step.mean is not None and step.best is not None]
    if len(scored) < 2:
        return Text("no data yet", style="dim")
    best = [(float(step.number), step.best or 0.0) for step in scored]
    mean = [(float(step.number), step.mean or 0.0) for step in scored]
    plot = draw_curves([best, mean], width=min(100, max(20, width - 10)), height=height, across="births")
    return Text(f"{plot}\nupper curve: best {best[-1][1]:.4f}; lower curve: mean {mean[-1][1]:.4f}", no_wrap=True)


def _leaders(leaders: Sequence[RankedCandidate]) -> RenderableType:
    if not leaders:
        return Text("no score yet", style="dim")
    measures = [
        name for name in ("reevaluation", "test") if any(getattr(leader, name) is not None for leader in leaders)
    ]
    table = _table("id", "birth", "fitness", *measures, "mult-adds", "params", "origin")
    for leader in leaders:
        values = (getattr(leader, name) for name in measures)
        measured = ("" if value is None else f"{value:.4f}" for value in values)
        figures = (str(leader.id), str(leader.birth), f"{leader.fitness:.4f}", *measured)
        table.add_row(*figures, f"{leader.mult_adds:,}", f"{leader.params:,}", leader.origin)
    return table


def _slots(view: DashboardView, slots: Sequence[TrainingActivity], now: float) -> RenderableType:
    if not slots:
        return Text("nothing", style="dim")
    has_several_hosts = len({slot.host for slot in slots}) > 1
    table = _table(*(("host",) if has_several_hosts else ()), "slot", "device", "candidate", "birth")
    for head in ("epochs", "images/s", "since"):
        table.add_column(head)
    for slot in slots:
        name = (slot.host,) if has_several_hosts else ()
        epochs = Table.grid(padding=(0, 1))
        epochs.add_row(_short_bar(slot.epochs_done, slot.epochs), f"{slot.epochs_done}/{slot.epochs}")
        since = format_duration(max(0.0, now - slot.started_at))
        if slot.search != view.name:
            since += f", of {slot.search}"
        speed = "" if slot.images_per_second is None else f"{slot.images_per_second:,.0f}"
        table.add_row(*name, str(slot.slot), slot.device, str(slot.candidate_id), str(slot.birth), epochs, speed, since)
    if len(view.work) > len(slots):
        return Group(table, Text(f"and {len(view.work) - len(slots)} more", style="dim"))
    return table


def _short_bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=done, width=12, complete_style=BUDGET_STYLE)


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head, justify="left" if head in ("origin", "host", "device") else "right", no_wrap=True)
    return table


@dataclass
class Dashboard:
    """Draws a search on the terminal. The last drawing stays on the screen when the context ends."""

    engine: Engine
    settings: Settings
    name: str
    _live: Live = field(default_factory=lambda: Live(auto_refresh=False, vertical_overflow="crop"))
    _view: DashboardView | None = None
    _steps: list[PopulationStep] = field(default_factory=list)
    _next: float = 0.0

    def __enter__(self) -> Dashboard:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def refresh(self) -> bool:
        """Read the database and draw, at most twice a second. Return whether the search is finished."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + REFRESH_SECONDS
        is_finished = False
        try:
            is_finished = self._read_and_draw()
        except RecordError as error:
            # Keep the old drawing, because the database may become reachable again.
            if self._view is None:
                raise
            self._show(self._view, str(error))
        return is_finished

    def _read_and_draw(self) -> bool:
        with read_transaction(self.engine) as connection:
            row = get_search(connection, self.name)
            if row.finished_at is not None:
                row = get_open_reevaluation(connection, row.id) or row
            if self._view is None or self._view.name != row.name:
                self._steps = []
            progress = get_progress(connection, row.id)
            # At first, read an evenly spaced sample of a long history. Later, read every new birth.
            if self._steps:
                self._steps += list_steps(connection, row.id, self._steps[-1].number)
            else:
                self._steps += list_steps(connection, row.id, max_points=MAX_STEPS)
            view = DashboardView(
                row.name,
                describe_status(row, is_supervised(self.settings, connection)),
                progress,
                self._steps,
                list_best(connection, row.id, LEADERS),
                list_training_activity(connection),
                pace(self._steps, progress.started_at),
            )
        self._show(view)
        return row.finished_at is not None

    def _show(self, view: DashboardView, error: str | None = None) -> None:
        self._view = view
        console: Console = self._live.console
        shown = view if error is None else DashboardView(view.name, view.status, view.progress, error=error)
        self._live.update(draw(shown, time.time(), console.width, console.height), refresh=True)


def pace(steps: Sequence[PopulationStep], started_at: float | None = None) -> float | None:
    """Return the rate of the latest births, in births per second; None if there are too few births."""
    recent = steps[-RECENT_STEPS:]
    if not recent:
        return None
    first, last = recent[0], recent[-1]
    start_number, start_at = first.number, first.at
    if len(recent) < FEW_STEPS and started_at is not None and first.number == 1:
        # Measure from the start of the search. From the first birth, the pace would be too high, because the first
        # candidates, one per slot, end almost at the same time.
        start_number, start_at = 0, started_at
    if last.at <= start_at or last.number <= start_number:
        return None
    return (last.number - start_number) / (last.at - start_at)
