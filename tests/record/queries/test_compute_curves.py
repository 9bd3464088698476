"""Curves of quality over device time."""

import pytest

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.compute_curves import ComputeCurve, CurvePoint, list_compute_curves, list_levels_reached
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.control import extend_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.transitions import record_failure
from support.databases import ON_SQLITE


def test_device_seconds_include_failed_attempts(engine, search_factory, lease_factory, train):
    search_id = search_factory("s", budget__candidates=6)
    lost = lease_factory(search_id)
    with transaction(engine) as connection:
        record_failure(connection, lost.token, FailureKind.LOST, "gone", device_seconds=10.0, now=1.0)
    train(search_id)
    with read_transaction(engine) as connection:
        assert [step.device_seconds for step in list_steps(connection, search_id)] == [
            11.0,
            12.0,
            13.0,
            14.0,
            15.0,
            16.0,
        ]


def test_curves_include_the_searches_transferred_from(large, connection):
    both = list_compute_curves(connection, ["small", "large"])
    assert [curve.seconds_before for curve in both] == [0.0, 12.0 + 6.0]
    assert both[1].points[0].device_seconds == 18.0 + 4.0
    (alone,) = list_compute_curves(connection, ["large"], alone=True)
    assert (alone.seconds_before, alone.points[0].device_seconds, alone.points[0].step) == (0.0, 4.0, 4)
    with pytest.raises(NotFoundError):
        list_compute_curves(connection, ["small", "other"])


@ON_SQLITE
def test_sources_that_go_on_do_not_change_a_curve(engine, small, large, train):
    with transaction(engine) as connection:
        extend_search(connection, "small", candidates=4, now=10.0)
    train(small)
    with transaction(engine) as connection:
        again = create_reevaluation(connection, "small", top=2, seeds=3, now=12.0)
        again_id = get_search(connection, again).id
    train(again_id)
    with read_transaction(engine) as connection:
        before = [curve.seconds_before for curve in list_compute_curves(connection, ["large", again])]
        assert (get_search(connection, "small").device_seconds, before) == (16.0, [12.0 + 6.0, 16.0 + 6.0])


def test_a_level_is_reached_at_the_first_step_above_it():
    one = ComputeCurve("one", 0.0, (CurvePoint(1, 10.0, 0.5), CurvePoint(2, 20.0, 0.7), CurvePoint(3, 30.0, 0.6)))
    two = ComputeCurve("two", 0.0, (CurvePoint(1, 5.0, 0.6), CurvePoint(2, 8.0, 0.65)))
    rows = list_levels_reached([one, two], [0.6, 0.7])
    assert [(row.search, row.device_seconds, row.ratio) for row in rows] == [
        ("one", 20.0, 1.0),
        ("two", 5.0, 0.25),
        ("one", 20.0, 1.0),
        ("two", None, None),
    ]
    levels = [row.level for row in list_levels_reached([one, two])][::2]
    assert levels == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7])
    assert list_levels_reached([ComputeCurve("empty", 0.0, ())]) == ()
    assert len(list_levels_reached([ComputeCurve("flat", 0.0, one.points[:1])])) == 1
