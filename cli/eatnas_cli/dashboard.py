"""`search watch` on a terminal: budgets, quality curve, the best, and what each slot does, drawn again and again."""

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

from eatnas_daemon.search_progress import describe_status, is_supervised
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
RECENT: Final = 50
"""The pace is that of so many births."""
FEW: Final = 10
MOST_STEPS: Final = 1000
MOST_SLOTS: Final = 16
BAR_SIGNS: Final = 40
BUDGET_STYLE: Final = "#0072B2"


@dataclass(frozen=True, slots=True)
class DashboardView:
    """What there is to see of a search at one moment; `births` are births a second, as far as known."""

    name: str
    status: str
    progress: SearchCounters
    steps: Sequence[PopulationStep] = ()
    leaders: Sequence[RankedCandidate] = ()
    work: Sequence[TrainingActivity] = ()
    births: float | None = None
    trouble: str | None = None


def draw(seen: DashboardView, now: float, width: int, height: int) -> RenderableType:
    """One picture of a search, no larger than the terminal if that is of a usual size."""
    slots = seen.work[:MOST_SLOTS]
    room = height - 15 - len(seen.leaders) - max(1, len(slots))
    parts: list[RenderableType] = [_headline(seen), _budgets(seen), Text()]
    if seen.trouble:
        parts.append(Text(seen.trouble, style="bold red"))
    parts += [Rule("quality of the population", align="left"), _curve(seen.steps, width, min(12, max(4, room)))]
    parts += [Rule("the best so far", align="left"), _leaders(seen.leaders)]
    parts += [Rule("in training", align="left"), _slots(seen, slots, now)]
    return Group(*parts)


def _headline(seen: DashboardView) -> Text:
    words = Text(seen.name, style="bold")
    words.append(f"  {seen.status}", style="green" if seen.status in ("running", "finished") else "yellow")
    told = seen.progress
    words.append(f"   {told.scored:,} scored, {told.failed:,} failed, {told.leased:,} in training", style="default")
    return words


def _budgets(seen: DashboardView) -> Table:
    told, pace = seen.progress, seen.births
    table = Table.grid(padding=(0, 2))
    seconds = None if not pace else max(0, told.budget - told.settled) / pace
    rate = "" if not pace else f"{60 * pace:,.1f} a minute"
    count = f"{told.settled:,}/{told.budget:,}"
    table.add_row("candidates", _bar(told.settled, told.budget), count, rate, _left(seen, seconds))
    if told.budget_device_seconds is not None:
        each = told.device_seconds / told.settled if told.settled else 0.0
        rest = max(0.0, told.budget_device_seconds - told.device_seconds)
        table.add_row(
            "device hours",
            _bar(told.device_seconds, told.budget_device_seconds),
            f"{told.device_seconds / 3600:.2f}/{told.budget_device_seconds / 3600:g}",
            f"{each:,.1f} s a candidate" if each else "",
            _left(seen, rest / (each * pace) if each and pace else None),
        )
    else:
        table.add_row("device hours", "", f"{told.device_seconds / 3600:.2f}", "no limit", "")
    return table


def _bar(done: float, whole: float) -> ProgressBar:
    return ProgressBar(total=max(whole, 1e-9), completed=min(done, whole), width=BAR_SIGNS, complete_style=BUDGET_STYLE)


def _left(seen: DashboardView, seconds: float | None) -> str:
    if seen.status != "running" or seconds is None:
        return ""
    return f"{format_duration(seconds)} left"


def _curve(steps: Sequence[PopulationStep], width: int, height: int) -> Text:
    told = [one for one in steps if one.mean is not None and one.best is not None]
    if len(told) < 2:
        return Text("nothing to draw yet", style="dim")
    best = [(float(one.number), one.best or 0.0) for one in told]
    mean = [(float(one.number), one.mean or 0.0) for one in told]
    picture = draw_curves([best, mean], width=min(100, max(20, width - 10)), height=height, across="births")
    return Text(f"{picture}\nabove: its best, {best[-1][1]:.4f}; below: its mean, {mean[-1][1]:.4f}", no_wrap=True)


def _leaders(leaders: Sequence[RankedCandidate]) -> RenderableType:
    if not leaders:
        return Text("no score yet", style="dim")
    measures = [name for name in ("reevaluation", "test") if any(getattr(one, name) is not None for one in leaders)]
    table = _table("id", "birth", "fitness", *measures, "mult-adds", "params", "origin")
    for one in leaders:
        values = (getattr(one, name) for name in measures)
        measured = ("" if value is None else f"{value:.4f}" for value in values)
        figures = (str(one.id), str(one.birth), f"{one.fitness:.4f}", *measured)
        table.add_row(*figures, f"{one.mult_adds:,}", f"{one.params:,}", one.origin)
    return table


def _slots(seen: DashboardView, slots: Sequence[TrainingActivity], now: float) -> RenderableType:
    if not slots:
        return Text("nothing", style="dim")
    several = len({one.host for one in slots}) > 1
    table = _table(*(("host",) if several else ()), "slot", "device", "candidate", "birth")
    for head in ("epochs", "images/s", "since"):
        table.add_column(head)
    for one in slots:
        name = (one.host,) if several else ()
        epochs = Table.grid(padding=(0, 1))
        epochs.add_row(_short_bar(one.epochs_done, one.epochs), f"{one.epochs_done}/{one.epochs}")
        words = format_duration(max(0.0, now - one.started_at))
        if one.search != seen.name:
            words += f", of {one.search}"
        speed = "" if one.images_per_second is None else f"{one.images_per_second:,.0f}"
        table.add_row(*name, str(one.slot), one.device, str(one.candidate_id), str(one.birth), epochs, speed, words)
    if len(seen.work) > len(slots):
        return Group(table, Text(f"and {len(seen.work) - len(slots)} more", style="dim"))
    return table


def _short_bar(done: int, whole: int) -> ProgressBar:
    return ProgressBar(total=max(1, whole), completed=done, width=12, complete_style=BUDGET_STYLE)


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head, justify="left" if head in ("origin", "host", "device") else "right", no_wrap=True)
    return table


@dataclass
class Dashboard:
    """Draws a search on the terminal until left; what it shows last stays there."""

    engine: Engine
    settings: Settings
    name: str
    _live: Live = field(default_factory=lambda: Live(auto_refresh=False, vertical_overflow="crop"))
    _seen: DashboardView | None = None
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
        """Look at the record and draw, twice a second at most. Whether the search is over."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + REFRESH_SECONDS
        over = False
        try:
            over = self._look()
        except RecordError as error:
            # To be told, not to be died of: it may be reached again.
            if self._seen is None:
                raise
            self._show(self._seen, str(error))
        return over

    def _look(self) -> bool:
        with read_transaction(self.engine) as connection:
            row = get_search(connection, self.name)
            if row.finished_at is not None:
                row = get_open_reevaluation(connection, row.id) or row
            if self._seen is None or self._seen.name != row.name:
                self._steps = []
            progress = get_progress(connection, row.id)
            # Of a long history an even sample, and then every birth that comes.
            if self._steps:
                self._steps += list_steps(connection, row.id, self._steps[-1].number)
            else:
                self._steps += list_steps(connection, row.id, max_points=MOST_STEPS)
            seen = DashboardView(
                row.name,
                describe_status(row, is_supervised(self.settings, connection)),
                progress,
                self._steps,
                list_best(connection, row.id, LEADERS),
                list_training_activity(connection),
                pace(self._steps, progress.started_at),
            )
        self._show(seen)
        return row.finished_at is not None

    def _show(self, seen: DashboardView, trouble: str | None = None) -> None:
        self._seen = seen
        console: Console = self._live.console
        shown = seen if trouble is None else DashboardView(seen.name, seen.status, seen.progress, trouble=trouble)
        self._live.update(draw(shown, time.time(), console.width, console.height), refresh=True)


def pace(steps: Sequence[PopulationStep], started_at: float | None = None) -> float | None:
    """Births a second, over the latest ones; None where too little is known."""
    recent = steps[-RECENT:]
    if not recent:
        return None
    first, last = recent[0], recent[-1]
    before, since = first.number, first.at
    if len(recent) < FEW and started_at is not None and first.number == 1:
        # The first ones end together, slot by slot: between them there would be hardly any time.
        before, since = 0, started_at
    return (last.number - before) / (last.at - since) if last.at > since and last.number > before else None
