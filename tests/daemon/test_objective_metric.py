"""A search can optimize a metric other than accuracy, in either direction."""

import json

import pytest
from sqlalchemy import select

from eatnas_cli.query.app import app as query_app
from eatnas_daemon.mlflow.views import RunsView
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.objective import Direction, fitness
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.pareto import list_front, list_tradeoffs
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import score
from eatnas_report.data import load_report_data
from eatnas_report.render import render_page
from support.commands import run_command


@pytest.mark.parametrize(("value", "direction"), [(0.8, "maximize"), (-0.8, "maximize"), (0.8, "minimize")])
def test_cost_above_the_target_always_lowers_fitness(value, direction):
    direction = Direction(direction)
    cheap, dear = (fitness(value, cost, 1000, -0.07, direction) for cost in (1000, 4000))
    assert dear < cheap == (value if direction is Direction.MAXIMIZE else -value)


@pytest.mark.slow
def test_search_minimizes_the_loss(tmp_path, home, supervise):
    births = []
    for name, objective in (
        ("accuracy", {}),
        # The simulated loss falls as the accuracy rises, so both searches have the same history.
        ("loss", {"objective__metric": "val_loss", "objective__direction": "minimize"}),
    ):
        settings = home(tmp_path / name, **objective)
        supervise(settings, 2)
        with read_transaction(open_record(settings.database_url)) as connection:
            births.append(connection.execute(select(candidate.c.birth, candidate.c.code)).all())
    assert births[0] == births[1]
    engine = open_record(settings.database_url)
    assert list(list_violations(engine, settings.artifacts)) == []
    with read_transaction(engine) as connection:
        search = get_search(connection, "s")
        losses = dict(
            connection.execute(select(score.c.candidate_id, score.c.value).where(score.c.metric == "val_loss")).all()
        )
        best = get_best(connection, search.id)
        front = list_front(connection, search.id, direction=search.objective.direction)
        tradeoffs = list_tradeoffs(connection, search.id)
        page = render_page(load_report_data(connection, "s", now=0.0))
    assert losses[best.id] == min(losses.values()) == -best.fitness
    assert all(row.accuracy == losses[row.id] for row in front)
    for row in front:
        assert not [t for t in tradeoffs if t.accuracy < row.accuracy and t.mult_adds <= row.mult_adds]
    assert "lower val_loss and fewer mult-adds" in page
    assert "validation accuracy" not in page
    rows = json.loads(run_command(query_app, settings, "pareto", "s", "--sort", "val_loss", "--format", "json"))
    assert [row["val_loss"] for row in rows] == sorted(losses[row.id] for row in front)
    (first, *_) = json.loads(run_command(query_app, settings, "best", "s", "--format", "json"))
    assert (first["val_loss"], first["fitness"]) == (-best.fitness, best.fitness)
    lowest = sorted(losses.values())[:5]
    low = ("--where", f"val_loss<={lowest[-1]}", "--sort", "-val_loss", "--top", 100, "--format", "json")
    selected = [row["val_loss"] for row in json.loads(run_command(query_app, settings, "best", "s", *low))]
    assert selected == lowest[::-1]
    assert "val_loss" in RunsView("val_loss").content
