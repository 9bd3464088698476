"""In searches with rungs and simulated workers, the candidates that continue depend only on the seed."""

import shutil

import pytest
from sqlalchemy import func, select, update

from eatnas_cli.query.app import app as query_app
from eatnas_db import transitions
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import CandidateState, DesiredState, Origin
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.progress import get_progress
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.rungs import count_rungs
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import epoch, rung
from eatnas_db.searches.control import set_desired_state
from eatnas_db.settings import load_settings
from eatnas_report.data import load_report_data
from eatnas_report.page import render_page
from eatnas_report.tables import top_table
from support.commands import run_command
from support.searches import fetch_rows

RUNGS = {"rungs": [1, 3], "keep": 0.5}
SMALL = {"training__epochs": 6, "evolution__fidelity": RUNGS, "budget__candidates": 20}


def with_schedule(schedule, **changes):
    return {**SMALL, "evolution__fidelity": {**RUNGS, "schedule": schedule}, **changes}


def violations(settings):
    return [str(found) for found in list_violations(open_record(settings.database_url), settings.artifacts)]


def settled_rungs(settings):
    """Return the number of candidates that settled at each rung."""
    query = select(candidate.c.rung, func.count()).where(candidate.c.state == "scored").group_by(candidate.c.rung)
    return {row[0]: row[1] for row in fetch_rows(settings, query)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, home, supervise, fast):
    """Return the settings of a finished search, and its fingerprint."""
    settings = home(tmp_path_factory.mktemp("finished") / "home", **SMALL)
    return settings, supervise(settings, 1, fast)


@pytest.mark.slow
def test_rungs_do_not_depend_on_slots_or_crashes(tmp_path, finished, home, supervise, fast):
    settings = home(tmp_path / "home", **SMALL)
    assert supervise(settings, 8, (*fast, "--crash-on", "7")) == finished[1]
    assert violations(settings) == []
    assert set(settled_rungs(settings)) == {0, 1, 2}


@pytest.mark.slow
def test_front_without_whole_trainings_is_explained(tmp_path, home, supervise, fast):
    settings = home(
        tmp_path / "home", **{**SMALL, "budget__candidates": 4, "evolution__fidelity": {**RUNGS, "keep": 0.1}}
    )
    supervise(settings, 2, fast)
    answer = run_command(query_app, settings, "pareto", "s")
    assert answer == "search 's' has no candidate that has reached the last rung\n"
    with read_transaction(open_record(settings.database_url)) as connection:
        assert "No candidate has reached the last rung yet." in render_page(load_report_data(connection, "s", 0.0))


def test_report_shows_the_last_rung_of_each_candidate(finished):
    with read_transaction(open_record(finished[0].database_url)) as connection:
        data = load_report_data(connection, "s", 0.0)
    table = top_table(data)
    place = [column.title for column in table.columns].index("rung")
    assert [row[place] for row in table.rows] == [str(best.rung) for best in data.top]


@pytest.mark.slow
def test_own_schedules_do_not_depend_on_slots_or_crashes(tmp_path, home, supervise, fast):
    prints = set()
    for slots, program in ((1, fast), (8, (*fast, "--crash-on", "7"))):
        settings = home(tmp_path / str(slots), **with_schedule("rung"))
        prints.add(supervise(settings, slots, program))
        assert violations(settings) == []
        with read_transaction(open_record(settings.database_url)) as connection:
            best = get_candidate(connection, get_best(connection, 1).id)
        assert {row.began_from for row in best.rungs} == {"scratch"}
        assert len(best.epochs) == best.rungs[-1].epochs
        assert {row.attempt for row in best.epochs} == {best.rungs[-1].attempt}
    assert len(prints) == 1


@pytest.mark.slow
def test_guided_births_with_rungs_do_not_depend_on_slots(tmp_path, home, supervise):
    changes = with_schedule("whole", evolution__births="guided")
    prints = {supervise(home(tmp_path / str(slots), **changes), slots) for slots in (1, 8)}
    assert len(prints) == 1


def test_promoted_candidate_resumes_its_own_checkpoint(finished):
    with read_transaction(open_record(finished[0].database_url)) as connection:
        best = get_best(connection, 1)
        details = get_candidate(connection, best.id)
        counts = count_rungs(connection, 1, get_search(connection, "s").spec)
    assert best.rung == 2
    assert [(row.rung, row.epochs, row.began_from, row.promoted) for row in details.rungs] == [
        (0, 1, "scratch", True),
        (1, 3, "checkpoint", True),
        (2, 6, "checkpoint", False),
    ]
    assert details.fitness == details.rungs[-1].fitness
    assert len(details.epochs) == details.lineage_epochs == 6
    assert [attempt.outcome for attempt in details.attempts] == ["rung", "rung", "scored"]
    assert [row.reached for row in counts] == [20, counts[0].continued, counts[1].continued]


@pytest.mark.slow
def test_search_without_rungs_stores_none(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", budget__candidates=6)
    supervise(settings, 2, fast)
    assert fetch_rows(settings, select(rung)) == []
    assert settled_rungs(settings) == {0: 6}


@pytest.mark.slow
def test_reevaluation_is_always_the_whole_training(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", **SMALL, reevaluation__top=2, reevaluation__seeds=1)
    supervise(settings, 2, fast)
    query = (
        select(candidate.c.id, func.count(epoch.c.number))
        .join(epoch, epoch.c.candidate_id == candidate.c.id)
        .where(candidate.c.origin == Origin.REEVALUATION)
        .group_by(candidate.c.id)
    )
    assert [row[1] for row in fetch_rows(settings, query)] == [6, 6]
    assert violations(settings) == []


@pytest.mark.slow
def test_failed_and_cancelled_births_do_not_delay_the_others(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", **SMALL)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        transitions.cancel(connection, 3, 0.0)
    supervise(settings, 2, (*fast, "--fail-on", "5"))  # candidate 5 fails in its second epoch, after the first rung
    states = {row.birth: row.state for row in fetch_rows(settings, select(candidate.c.birth, candidate.c.state))}
    assert states[2] == CandidateState.CANCELLED
    assert len(states) == 20
    assert violations(settings) == []


@pytest.mark.slow
def test_paused_search_decides_after_it_is_resumed(tmp_path, home, supervise, fast):
    expected = supervise(home(tmp_path / "calm", **SMALL), 2, fast)
    settings = home(tmp_path / "paused", **SMALL)
    engine = open_record(settings.database_url)

    def pause_then_stop(supervisor):
        if fetch_rows(settings, select(rung.c.number).limit(1)):
            with transaction(engine) as connection:
                set_desired_state(connection, "s", DesiredState.PAUSED, 0.0)
            supervisor.stop()

    supervise(settings, 2, fast, on_tick=pause_then_stop)
    with transaction(engine) as connection:
        set_desired_state(connection, "s", DesiredState.RUN, 0.0)
    assert supervise(settings, 4, fast) == expected


def test_waiting_candidate_counts_as_pending_and_can_be_cancelled(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", **SMALL)
    engine = open_record(settings.database_url)
    supervise(settings, 2, fast, on_tick=lambda supervisor: supervisor.stop())
    with transaction(engine) as connection:
        connection.execute(update(candidate).where(candidate.c.birth == 5).values(state=CandidateState.WAITING))
        progress = get_progress(connection, 1)
        assert progress.pending + progress.leased == progress.born - progress.done
        transitions.cancel(connection, 6, 0.0)
    states = fetch_rows(settings, select(candidate.c.state).where(candidate.c.birth == 5))
    assert states[0].state == CandidateState.CANCELLED


def test_check_reports_a_changed_decision(tmp_path, finished):
    shutil.copytree(finished[0].home, tmp_path / "home")
    settings = load_settings({}, str(tmp_path / "home"))
    with transaction(open_record(settings.database_url)) as connection:
        scored = select(candidate.c.id).where(candidate.c.rung == 0).order_by(candidate.c.birth.desc()).limit(1)
        chosen = connection.execute(scored).scalar_one()
        connection.execute(update(rung).where(rung.c.candidate_id == chosen).values(fitness=2.0))
    found = violations(settings)
    assert any("the score of its last rung" in line for line in found)
    assert any("continues after a rung" in line for line in found)
