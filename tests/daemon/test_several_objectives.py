"""Searches with several objectives, with simulated workers: history, front, hypervolume and replay."""

import pytest
from sqlalchemy import select, update

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.dominance import dominates, sort_into_fronts
from eatnas_db.domain.objectives import list_objectives, orient_values
from eatnas_db.integrity.replay import check_replay
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import step
from eatnas_db.schema.trainings import measurement, score
from support.searches import fetch_rows

COSTS = [{"metric": "val_accuracy"}, {"metric": "mult_adds"}]
LATENCY = [{"metric": "val_accuracy"}, {"metric": "latency_ms", "batch": 2, "runs": 5}, {"metric": "params"}]
SCORED = select(candidate.c.id, candidate.c.birth, candidate.c.objectives, candidate.c.left).where(
    candidate.c.fitness.is_not(None)
)


def oriented(settings, rows):
    with read_transaction(open_record(settings.database_url)) as connection:
        objectives = list_objectives(get_search(connection, "s").spec)
    return [orient_values(objectives, row.objectives) for row in rows]


def test_history_depends_on_neither_slots_nor_crashes(tmp_path, home, supervise, fast):
    prints = set()
    for slots, program in ((1, fast), (4, (*fast, "--crash-on", "11"))):
        settings = home(tmp_path / str(slots), objective=COSTS)
        prints.add(supervise(settings, slots, program))
    assert len(prints) == 1
    assert prints != {supervise(home(tmp_path / "scalar"), 2)}
    rows = fetch_rows(settings, SCORED.order_by(candidate.c.birth))
    vectors = oriented(settings, rows)
    front = {rows[place].birth for place in sort_into_fronts(vectors)[0]}
    living = {row.birth for row in rows if row.left is None}
    assert len(living) == 6
    # A member of the front leaves only while all other members are on it, too.
    assert front <= living or not any(
        dominates(a, b)
        for a, one in zip(vectors, rows, strict=True)
        for b, other in zip(vectors, rows, strict=True)
        if one.birth in living and other.birth in living
    )
    assert list(check_replay(open_record(settings.database_url))) == []


def test_hypervolume_rises_with_a_population_that_keeps_its_front(tmp_path, home, supervise):
    settings = home(tmp_path / "home", objective=COSTS, budget__candidates=40)
    supervise(settings, 2)
    values = [row.hypervolume for row in fetch_rows(settings, select(step.c.hypervolume).order_by(step.c.number))]
    assert values[:5] == [None] * 5
    assert None not in values[5:]
    assert 0 < values[5] < values[-1] < 1


def test_latency_is_a_measurement_and_no_score(tmp_path, home, supervise):
    settings = home(tmp_path / "home", objective=LATENCY, budget__candidates=10)
    supervise(settings, 2)
    columns = (measurement, candidate.c.objectives, candidate.c.params)
    rows = fetch_rows(settings, select(*columns).where(candidate.c.id == measurement.c.candidate_id))
    assert len(rows) == 10
    for row in rows:
        assert (row.metric, row.device, row.batch, row.threads, row.runs) == ("latency_ms", "cpu", 2, 1, 5)
        assert (row.low <= row.median <= row.high, row.quiet) == (True, True)
        assert row.objectives[1:] == [row.median, row.params]
    assert {row.metric for row in fetch_rows(settings, select(score.c.metric))} == {"val_accuracy", "val_loss"}
    assert list(check_replay(open_record(settings.database_url))) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (update(measurement).values(median=0.01), "the fitness of a candidate follows from its scores"),
        (update(step).where(step.c.number == 8).values(hypervolume=0.5), "each step stores the quality of its"),
    ],
)
def test_changed_objectives_are_found(tmp_path, home, supervise, change, rule):
    settings = home(tmp_path / "home", objective=LATENCY, budget__candidates=10)
    supervise(settings, 2)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        connection.execute(change)
    assert any(rule in violation.invariant for violation in check_replay(engine))


def test_flat_hypervolume_ends_a_search(tmp_path, home, supervise, fast):
    flat = {"evolution__stop_when": "quality_flat", "evolution__flat_steps": 8, "evolution__flat_by": 0.05}
    settings = home(tmp_path / "home", objective=COSTS, budget__candidates=200, **flat)
    supervise(settings, 3, fast)
    with read_transaction(open_record(settings.database_url)) as connection:
        row = get_search(connection, "s")
    assert row.born == row.settled == row.ends_at < 200
