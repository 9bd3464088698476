"""`search watch` draws a search on a terminal."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from eatnas_cli.dashboard import DashboardView, draw, pace
from eatnas_db.queries.progress import SearchCounters
from eatnas_db.queries.quality import PopulationStep
from eatnas_db.queries.ranking import RankedCandidate
from eatnas_db.queries.training_activity import TrainingActivity
from eatnas_report.formats import format_duration

STEPS = [
    PopulationStep(number, 4, 0.5 + number / 200, 0.0, 0.7, 0.5, 2.0 * number, 2.0 * number) for number in range(1, 41)
]
PROGRESS = SearchCounters(
    budget=100,
    born=44,
    settled=40,
    done=40,
    scored=38,
    failed=2,
    pending=2,
    leased=2,
    best=0.7,
    device_seconds=1800.0,
    budget_device_seconds=7200.0,
    created_at=0.0,
    started_at=1.0,
    finished_at=None,
)
LEADER = RankedCandidate(7, 6, 0.7, 123_456, 2_345_678, "mutation", 3, "code")
WORK = [
    TrainingActivity("anvil", 0, 10, 41, 40, "digits", 1, 3, 6, 70.0, "processor", 1234.5),
    TrainingActivity("anvil", 1, 11, 42, 41, "digits", 1, 0, 6, 95.0, "processor", None),
]


def drawn(view, width=100, height=40):
    console = Console(file=StringIO(), width=width, height=height)
    console.print(draw(view, 100.0, width, height))
    return console.file.getvalue().splitlines()


def test_dashboard_of_a_running_search_is_complete():
    lines = drawn(DashboardView("digits", "running", PROGRESS, STEPS, [LEADER], WORK, pace(STEPS)))
    text = "\n".join(lines)
    candidates = next(line for line in lines if line.startswith("candidates"))
    # 60 births are left, and one birth settles every 2 seconds.
    assert candidates.split("━ ")[-1].split() == ["40/100", "30.0", "per", "minute", "0:02:00", "left"]
    # 5400 device seconds are left, and each birth takes 45 of them.
    hours = next(line for line in lines if line.startswith("device hours"))
    assert "0.50/2" in hours
    assert "0:04:00 left" in hours
    assert any("⠀" < sign <= "⣿" for sign in text)
    assert any(line.split() == ["7", "6", "0.7000", "2,345,678", "123,456", "mutation"] for line in lines)
    slot = next(line.split() for line in lines if line.split()[:4] == ["0", "processor", "41", "40"])
    assert slot[-3:] == ["3/6", "1,234", "0:00:30"]


def test_leaders_show_reevaluations_and_test_accuracies():
    plain = "\n".join(drawn(DashboardView("digits", "running", PROGRESS, STEPS, [LEADER])))
    assert "reevaluation" not in plain
    tested = replace(LEADER, reevaluation=0.68, test=0.66)
    lines = drawn(DashboardView("digits", "finished", PROGRESS, STEPS, [tested, replace(LEADER, id=8)]))
    assert any(line.split()[:5] == ["7", "6", "0.7000", "0.6800", "0.6600"] for line in lines)


def test_dashboard_of_a_new_search_fits_the_terminal():
    nothing = drawn(DashboardView("digits", "waiting: no daemon", PROGRESS))
    assert "no score yet" in "\n".join(nothing)
    assert "left" not in "\n".join(nothing)
    for width, height in ((80, 24), (200, 60)):
        lines = drawn(DashboardView("digits", "running", PROGRESS, STEPS, [LEADER] * 5, WORK, 0.5), width, height)
        assert len(lines) < height
        assert max(map(len, lines)) <= width


def test_durations_are_hours_minutes_and_seconds():
    durations = [format_duration(seconds) for seconds in (5, 65, 3660, 90_000)]
    assert durations == ["0:00:05", "0:01:05", "1:01:00", "1 day, 1:00:00"]


def test_pace_needs_two_births_at_different_times():
    assert pace(STEPS[:1]) is None
    assert pace([STEPS[0], STEPS[0]]) is None
    assert pace(STEPS) == 0.5
    # On two slots, the first two births end at the same time.
    together = [PopulationStep(number, 4, 0.5, 0.0, 0.5, 0.5, 20.0, 20.0) for number in (1, 2)]
    assert pace(together) is None
    assert pace(together, started_at=10.0) == 0.2
