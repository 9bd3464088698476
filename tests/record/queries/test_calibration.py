"""The predictions for guided births, and the measured results."""

from dataclasses import replace

import pytest

from eatnas_db.database.transactions import read_transaction
from eatnas_db.guidance.gaussian_process import Kernel
from eatnas_db.guided_births import decide_guided_birth, read_inputs
from eatnas_db.queries.calibration import get_calibration, list_predictions
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.paging import EVERYTHING, Page
from eatnas_db.queries.predictions import get_predicted_fitness
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.birth_digests import digest_lookup
from eatnas_db.searches.search_space import space_of
from eatnas_report.data import load_report_data
from eatnas_report.figures.predictions import prediction_figures
from eatnas_report.page import render_page
from support.databases import ON_SQLITE


@pytest.fixture
def guided(search_factory, train):
    """Return a finished search whose births after the first eight were guided."""
    return train(search_factory(evolution__births="guided", budget__candidates=20, evolution__population=10))


@pytest.fixture
def connection(engine):
    with read_transaction(engine) as connection:
        yield connection


@ON_SQLITE
def test_every_guided_birth_has_a_prediction_and_its_outcome(guided, connection):
    rows = list_predictions(connection, guided, EVERYTHING)
    assert [row.birth for row in rows] == list(range(8, 20))
    for row in rows:
        assert row.low <= row.predicted <= row.high
        assert row.within == (row.low <= row.fitness <= row.high)
        assert row.scores == row.birth - 2
        assert (row.deviation > 0, len(row.kernel), row.slopes) == (True, len(Kernel._fields), None)
        assert get_predicted_fitness(connection, row.id) == get_candidate(connection, row.id).prediction


@ON_SQLITE
def test_reason_names_the_improvement_per_second(search_factory, train, engine):
    changes = {"evolution__births": "guided", "evolution__acquisition": "improvement_per_second"}
    train(search_factory(**changes, budget__candidates=10, evolution__population=9))
    with read_transaction(engine) as connection:
        reason = get_candidate(connection, 10).prediction.reason
        assert reason.endswith("promised a larger improvement per device second.")
        assert get_lineage(connection, 10)[0].reason == reason


def test_calibration_summarizes_all_predictions(guided, connection):
    rows = list_predictions(connection, guided, EVERYTHING)
    summary = get_calibration(connection, guided)
    assert (summary.predicted, summary.scored) == (12, 12)
    assert summary.share_within == pytest.approx(sum(row.within for row in rows) / 12)
    assert summary.mean_error == pytest.approx(sum(abs(row.fitness - row.predicted) for row in rows) / 12)
    assert -1 <= summary.correlation <= 1


def test_predictions_are_paged_sorted_and_filtered(guided, connection):
    rows = list_predictions(connection, guided, Page(limit=3, sort="-predicted", where=("birth>=10",)))
    assert len(rows) == 3
    assert rows == sorted(rows, key=lambda row: -row.predicted)
    assert all(row.birth >= 10 for row in rows)
    assert len(list_predictions(connection, guided, Page(sort="kernel", where=("slopes=", "kernel!=")))) == 12


@ON_SQLITE
def test_search_of_mutations_has_no_predictions(search_factory, train, engine):
    search_id = train(search_factory())
    with read_transaction(engine) as connection:
        assert list_predictions(connection, search_id, EVERYTHING) == []
        summary = get_calibration(connection, search_id)
    assert (summary.predicted, summary.share_within, summary.correlation) == (0, None, None)


@pytest.mark.slow
def test_birth_decided_again_is_the_same(guided, connection):
    search = get_search(connection, "s")
    for row in list_predictions(connection, guided, EVERYTHING):
        is_held = digest_lookup(connection, guided, row.birth)
        inputs = read_inputs(connection, search, row.birth)
        again = decide_guided_birth(search, space_of(search), inputs, is_held)
        candidate = get_candidate(connection, row.id)
        assert str(again.proposal.architecture) == candidate.code
        assert (again.parent_id, again.prediction.middle) == (candidate.parent_id, row.predicted)


@ON_SQLITE
def test_proposals_are_explained_in_one_sentence(guided, connection):
    newest = list_predictions(connection, guided, EVERYTHING)[-1]
    reason = get_candidate(connection, newest.id).prediction.reason
    assert reason.startswith(f"A model of {newest.scores} scores expected a fitness of {newest.predicted:.4f} (")
    ancestors = get_lineage(connection, newest.id)
    assert ancestors[-1].reason == reason or ancestors[0].reason == reason
    assert all((entry.reason is None) == (entry.birth < 8) for entry in ancestors)


@pytest.mark.slow
def test_report_shows_predictions_of_guided_searches_only(guided, connection):
    data = load_report_data(connection, "s", 100.0)
    (figure,) = prediction_figures(data)
    assert len(figure.plot.data[1].x) == 12
    assert "68% with a perfectly calibrated model" in figure.caption
    assert "<h2>Predictions</h2>" in render_page(data)
    assert prediction_figures(replace(data, predictions=())) == []
