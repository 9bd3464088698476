"""Every query for the best candidates gives the same ranking."""

import json
import random
import statistics
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, select

from eatnas_cli.query.app import app as query_app
from eatnas_db import api
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.objective import RESERVED_METRICS
from eatnas_db.leases import LeasedCandidate
from eatnas_db.provenance import Provenance
from eatnas_db.queries.objective_front import ObjectiveValues
from eatnas_db.queries.paging import Page, select_page
from eatnas_db.queries.ranking import RankedCandidate, get_best, list_best, list_fittest, list_living, rank_candidates
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.basic_architecture import choose_basic_candidate
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_final_training, create_reevaluation
from eatnas_db.settings import Settings
from eatnas_db.transitions import record_score
from eatnas_report.data import load_report_data
from support.commands import run_command
from support.recorded_search import BIRTHS, Record

PAGES = (
    Page(3),
    Page(3, 2),
    Page(4, 1, "birth"),
    Page(4, 0, "-reevaluation"),
    Page(4, 0, "test"),
    Page(None, 0, "-params", ("reevaluation=",)),
    Page(2, 1, None, ("fitness>=0.3",)),
    Page(None, 0, None, ("test_seeds>0",)),
    Page(5, 0, "origin", ("origin=random",)),
)


@pytest.fixture
def train(engine: Engine, lease_factory: Callable[..., LeasedCandidate | None]) -> Callable[[int, random.Random], None]:
    """Return a function that finishes a search. Fitness is one of five values, so that candidates tie."""

    def finish(search_id: int, rng: random.Random) -> None:
        with transaction(engine) as connection:
            kind = connection.execute(select(search.c.kind).where(search.c.id == search_id)).scalar_one()
        while (leased := lease_factory(search_id)) is not None:
            with transaction(engine) as connection:
                fitness = rng.randrange(1, 6) / 10
                record_score(
                    connection,
                    leased.token,
                    fitness=fitness,
                    metrics={"test_accuracy" if kind == "final" else "val_accuracy": fitness},
                    seed=leased.replica,
                    provenance=Provenance("p", {}, "data", {}, "cpu", "none"),
                    device_seconds=1.0,
                    now=2.0,
                )
                advance_search(connection, lock_search(connection, search_id), 3.0)

    return finish


@pytest.fixture(params=range(3))
def small(
    request: pytest.FixtureRequest,
    engine: Engine,
    search_factory: Callable[..., int],
    train: Callable[[int, random.Random], None],
) -> int:
    """Return a finished search with re-evaluations of random size. The parameter of the fixture is their number."""
    rng = random.Random(request.param)
    search_id = search_factory("small", budget__candidates=20)
    train(search_id, rng)
    for _ in range(request.param):
        with transaction(engine) as connection:
            name = create_reevaluation(connection, "small", top=rng.randrange(1, 6), seeds=rng.randrange(1, 4), now=5.0)
            reevaluation_id = get_search(connection, name).id
        train(reevaluation_id, rng)
    return search_id


@pytest.fixture
def tested(engine: Engine, small: int, train: Callable[[int, random.Random], None]) -> int:
    """Return the search `small` with final models of some candidates other than the best candidate."""
    with transaction(engine) as connection:
        chosen = [row.id for row in list_best(connection, small, 20)[1::5]]
        name = create_final_training(connection, "small", candidate_ids=chosen, seeds=2, epochs=1, now=6.0)
        final_id = get_search(connection, name).id
    train(final_id, random.Random(small))
    return small


def rank_by_definition(connection: Connection, search_id: int) -> list[int]:
    """Return the ids of the scored candidates: first the re-evaluated candidates by mean score, then the others by
    fitness.
    """
    rows = connection.execute(select(candidate).where(candidate.c.fitness.is_not(None))).all()
    values: dict[int, list[float]] = {}
    for row in rows:
        if row.origin == "reevaluation":
            values.setdefault(row.parent_id, []).append(row.fitness)

    def rank(row):
        mean = statistics.fmean(values[row.id]) if row.id in values else None
        return mean is None, -(row.fitness if mean is None else mean), row.birth

    return [row.id for row in sorted((row for row in rows if row.search_id == search_id), key=rank)]


@pytest.mark.slow
def test_reevaluated_candidates_rank_first(tested: int, connection: Connection) -> None:
    ranking = rank_by_definition(connection, tested)
    rows = list_best(connection, tested, 100)
    assert [row.id for row in rows] == ranking
    assert len(ranking) == 20
    assert [list_best(connection, tested, top) for top in range(1, 20)] == [rows[:top] for top in range(1, 20)]
    living = list_living(connection, tested)
    assert list(living) == [row for row in rows if row in living]
    fittest = [row.id for row in list_fittest(connection, tested, 5)]
    by_fitness = sorted(rows, key=lambda row: (-row.fitness, row.birth))
    assert fittest == [row.id for row in rows if row in by_fitness[:5]]


def test_ties_go_to_the_older_candidate(record: Record, record_connection: Connection) -> None:
    rows = list_best(record_connection, record.search_id, 10**9)  # more rows than a statement may have parameters
    assert len(rows) == BIRTHS - 1
    assert list(rows) == sorted(rows, key=lambda row: (-row.fitness, row.birth))
    assert all((row.parent_birth is None) == (row.origin == "random") for row in rows)


def test_ranking_pages_equal_slices_of_the_ranking(tested: int, connection: Connection) -> None:
    for page in PAGES:
        ranked = list_best(connection, tested, 100)
        expected = select_page(ranked, page, row_type=RankedCandidate)
        assert list(rank_candidates(connection, tested, page)) == expected


@pytest.mark.slow
def test_every_command_takes_the_same_best_candidate(engine: Engine, tested: int, tmp_path: Path) -> None:
    settings = Settings(tmp_path, engine.url.render_as_string(hide_password=False))
    record = api.Record(settings).search("small")

    def run_query(*arguments: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(run_command(query_app, settings, *arguments, "--format", "json"))
        return rows

    with read_transaction(engine) as connection:
        best = rank_by_definition(connection, tested)[0]
        winner = get_best(connection, tested)
        report = load_report_data(connection, "small", 9.0)
        basic_id = choose_basic_candidate(connection, get_search(connection, "small"), None).candidate_id
    assert winner is not None
    assert report.best is not None
    assert [winner.id, report.best.id, report.top[0].id, report.lineage[0].id, basic_id] == [best] * 5
    assert [record.best(1)[0].id, record.lineage()[0].id] == [best] * 2
    assert [run_query("best", "small", "--top", "1")[0]["id"], run_query("lineage", "small")[0]["id"]] == [best] * 2
    with transaction(engine) as connection:
        final = get_search(connection, create_final_training(connection, "small", seeds=1, epochs=2, now=9.0))
        parents = select(candidate.c.parent_id).where(candidate.c.search_id == final.id)
        assert connection.execute(parents).scalars().all() == [best]


def test_best_shows_the_accuracy_behind_a_fitness_with_cost(
    engine: Engine,
    search_factory: Callable[..., int],
    lease_factory: Callable[..., LeasedCandidate | None],
    tmp_path: Path,
) -> None:
    search_id = search_factory("weighted", objective__target_mult_adds=1_000_000)
    leased = lease_factory(search_id)
    assert leased is not None
    with transaction(engine) as connection:
        record_score(
            connection,
            leased.token,
            fitness=0.6,
            metrics={"val_accuracy": 0.7},
            seed=0,
            provenance=Provenance("p", {}, "data", {}, "cpu", "none"),
            device_seconds=1.0,
            now=2.0,
        )
    settings = Settings(home=tmp_path, database_url=engine.url.render_as_string(hide_password=False))
    (row,) = json.loads(run_command(query_app, settings, "best", "weighted", "--format", "json"))
    assert (row["accuracy"], row["fitness"]) == (0.7, 0.6)
    assert "accuracy" in run_command(query_app, settings, "best", "weighted", "--columns", "id,accuracy")


def test_no_metric_may_have_the_name_of_another_column() -> None:
    columns = {field.name for row_type in (RankedCandidate, ObjectiveValues) for field in fields(row_type)}
    assert columns <= RESERVED_METRICS
