"""Searches with several objectives, with simulated workers: history, front, hypervolume and replay."""

import json

import pytest
from sqlalchemy import select, update

from eatnas_cli.query.app import app as query_app
from eatnas_cli.search.app import app as search_app
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.dominance import dominates, sort_into_fronts
from eatnas_db.domain.objectives import list_objectives, orient_values
from eatnas_db.integrity.replay import check_replay
from eatnas_db.queries.objective_front import list_front_ids
from eatnas_db.queries.ranking import list_living
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import step
from eatnas_db.schema.trainings import measurement, score
from eatnas_db.searches.basic_architecture import choose_basic_candidate
from eatnas_report.data import load_report_data
from eatnas_report.page import render_page
from eatnas_report.tables import objective_front_table
from support.commands import run_command
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


@pytest.mark.slow
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
    # A member of the front leaves only if all other members are also on the front.
    assert front <= living or not any(
        dominates(a, b)
        for a, one in zip(vectors, rows, strict=True)
        for b, other in zip(vectors, rows, strict=True)
        if one.birth in living and other.birth in living
    )
    assert list(check_replay(open_record(settings.database_url))) == []


@pytest.mark.slow
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


@pytest.mark.slow
def test_flat_hypervolume_ends_a_search(tmp_path, home, supervise, fast):
    flat = {"evolution__stop_when": "quality_flat", "evolution__flat_steps": 8, "evolution__flat_by": 0.05}
    settings = home(tmp_path / "home", objective=COSTS, budget__candidates=200, **flat)
    supervise(settings, 3, fast)
    with read_transaction(open_record(settings.database_url)) as connection:
        row = get_search(connection, "s")
    assert row.born == row.settled == row.ends_at < 200


@pytest.fixture(scope="module")
def finished(tmp_path_factory, home, supervise):
    """Return a finished search over accuracy, latency and parameters, and its re-evaluation."""
    overrides = {"budget__candidates": 16, "reevaluation": {"top": 3, "seeds": 1}}
    settings = home(tmp_path_factory.mktemp("finished") / "home", objective=LATENCY, **overrides)
    supervise(settings, 2)
    return settings


@pytest.mark.slow
def test_queries_show_the_front_and_name_the_machine(finished):
    front = json.loads(run_command(query_app, finished, "pareto", "s", "--format", "json"))
    rows = fetch_rows(finished, SCORED.where(candidate.c.search_id == 1).order_by(candidate.c.birth))
    expected = {rows[place].id for place in sort_into_fronts(oriented(finished, rows))[0]}
    assert {row["id"] for row in front} == expected
    assert set(front[0]) >= {"val_accuracy", "latency_ms", "params"}
    accuracies = [row["val_accuracy"] for row in front]
    assert accuracies == sorted(accuracies, reverse=True)
    best = json.loads(run_command(query_app, finished, "best", "s", "--top", 100, "--format", "json"))
    assert {row["id"] for row in best} == expected
    assert all("latency_ms" in row for row in best)
    measured = [row["id"] for row in best if row["reevaluation_seeds"]]
    assert [row["id"] for row in best[:3]] == measured
    steps = json.loads(run_command(query_app, finished, "quality", "s", "--format", "json"))
    assert steps[-1]["hypervolume"] > 0
    shown = json.loads(run_command(search_app, finished, "show", "s", "--format", "json"))
    assert shown["machine_dependent"] == "births depend on latency_ms, which is measured on cpu"
    assert "minimize latency_ms (cpu, batch 2, median of 5)" in shown["objectives"]


@pytest.mark.slow
@pytest.mark.parametrize("query", ["pareto", "best"])
def test_conditions_and_order_may_name_an_objective(finished, query):
    def latencies(*options):
        answer = run_command(query_app, finished, query, "s", *options, "--format", "json")
        return [row["latency_ms"] for row in json.loads(answer)]

    ascending = sorted(latencies())
    assert latencies("--sort", "latency_ms") == ascending
    assert latencies("--sort", "-latency_ms", "--where", f"latency_ms<={ascending[1]}") == ascending[1::-1]


def test_values_of_all_objectives_are_compared_as_text(finished):
    first, *_ = json.loads(run_command(query_app, finished, "pareto", "s", "--format", "json"))
    condition = "values=" + "; ".join(map(str, first["values"]))
    answer = json.loads(run_command(query_app, finished, "pareto", "s", "--where", condition, "--format", "json"))
    assert [row["id"] for row in answer] == [first["id"]]


@pytest.mark.slow
def test_parameters_and_mult_adds_are_integers(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", objective=COSTS, budget__candidates=8)
    supervise(settings, 2, fast)
    counts = {row.id: row.mult_adds for row in fetch_rows(settings, select(candidate))}
    for query in ("pareto", "best"):
        for row in json.loads(run_command(query_app, settings, query, "s", "--format", "json")):
            assert str(row["mult_adds"]) == str(counts[row["id"]])
    with read_transaction(open_record(settings.database_url)) as connection:
        table = objective_front_table(load_report_data(connection, "s", 0.0))
    shown = {row[0]: row[3] for row in table.rows}
    assert shown == {candidate_id: f"{counts[int(candidate_id)]:,}" for candidate_id in shown}
    assert max(map(len, shown.values())) > len("999,999")


@pytest.mark.slow
def test_report_and_picture_show_the_front(finished, tmp_path):
    run_command(query_app, finished, "pareto", "s", "--picture", tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000
    with read_transaction(open_record(finished.database_url)) as connection:
        data = load_report_data(connection, "s", 0.0)
    page = render_page(data)
    assert "objectives-1" in page
    assert "objectives-2" in page
    assert "births depend on latency_ms" in page


def test_transfers_and_final_models_start_from_the_front(finished):
    with read_transaction(open_record(finished.database_url)) as connection:
        record = get_search(connection, "s")
        front = list_front_ids(connection, record.id)
        chosen = choose_basic_candidate(connection, record, None)
        population = [row.id for row in list_living(connection, record.id)]
    assert chosen.candidate_id in front[:3]
    assert "of the Pareto front" in chosen.reason
    assert population == sorted(population, key=lambda member: member not in front)
