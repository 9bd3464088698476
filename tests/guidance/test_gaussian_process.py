"""The Gaussian process over codes."""

from statistics import NormalDist

import numpy as np
import pytest

from eatnas_db.guidance.encoding import Encoding, as_array
from eatnas_db.guidance.gaussian_process import (
    KERNEL_CHOICES,
    Posterior,
    ProcessModel,
    choose_model,
    make_points,
    normal_scores,
)
from eatnas_db.guidance.proposals import expected_improvement

ENCODING = Encoding((3, 3, 5), (False, False, True), (0, 0, 1))
NOTHING = make_points(ENCODING, as_array([], 3))


def make_data(count=30):
    codes = as_array([(number % 3, number // 3 % 3, number * 7 % 5) for number in range(count)], 3)
    targets = normal_scores(codes[:, 0] + 0.5 * codes[:, 2] + 0.1 * np.sin(np.arange(count)))
    return make_points(ENCODING, codes), targets


def fit(model, points, targets, pending=NOTHING):
    return Posterior.fit(ENCODING, model, points=points, targets=targets, pending=pending)


def test_distances_respect_the_order_of_values():
    codes = as_array([(0, 0, 0), (2, 0, 4), (0, 0, 1)], 3)
    assert ENCODING.distances(codes, codes)[0].tolist() == pytest.approx([0, 2 / 3, 1 / 12])


def test_totals_count_the_values_of_each_primitive():
    totals = ENCODING.totals(as_array([(0, 2, 4)], 3))
    assert totals.tolist() == [[0.5, 0, 0.5, 0, 0, 0, 0, 1]]


def test_running_totals_differ_less_for_nearby_positions():
    encoding = Encoding((2, 2, 2, 2), (False,) * 4, (0,) * 4)
    first, second, last = encoding.running_totals(as_array([(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)], 4))
    assert ((first - second) ** 2).sum() == pytest.approx(1 / 4 * 2 / 16)
    assert ((first - last) ** 2).sum() == pytest.approx(3 / 4 * 2 / 16)


def test_normal_scores_depend_on_ranks_alone():
    scores = normal_scores(np.array([0.1, 0.9, 0.5, 0.5]))
    assert scores.tolist() == pytest.approx([NormalDist().inv_cdf(share) for share in (1 / 8, 7 / 8, 4 / 8, 4 / 8)])
    assert normal_scores(np.array([1, 9, 5, 5]) * 1e6).tolist() == scores.tolist()


@pytest.mark.parametrize("kernel", KERNEL_CHOICES)
def test_left_out_predictions_equal_those_of_smaller_fits(kernel):
    points, targets = make_data(12)
    model = ProcessModel(kernel, 0.1)
    left_out = []
    for row in range(12):
        others = [other for other in range(12) if other != row]
        mean, _ = fit(model, points.select(others), targets[others]).predict(points.select([row]))
        left_out.append(mean[0])
    expected = np.corrcoef(left_out, targets)[0, 1]
    assert fit(model, points, targets).agreement(targets) == pytest.approx(expected)


def test_fitted_means_equal_predictions_at_scored_points():
    points, targets = make_data()
    posterior = fit(ProcessModel(KERNEL_CHOICES[4], 0.1), points, targets)
    assert posterior.fitted(targets).tolist() == pytest.approx(posterior.predict(points)[0].tolist())


def test_pending_points_change_the_deviation_alone():
    points, targets = make_data()
    model = ProcessModel(KERNEL_CHOICES[4], 0.1)
    unseen = make_points(ENCODING, as_array([(1, 2, 0), (0, 1, 3)], 3))
    mean, deviation = fit(model, points, targets).predict(unseen)
    mean_later, deviation_later = fit(model, points, targets, pending=unseen).predict(unseen)
    assert mean_later.tolist() == pytest.approx(mean.tolist())
    assert (deviation_later < deviation).all()


def test_chosen_model_predicts_a_sum_of_values():
    points, targets = make_data()
    model = choose_model(ENCODING, points, targets)
    assert model.noise < 0.5
    assert fit(model, points, targets).agreement(targets) > 0.8


def test_equal_targets_agree_with_nothing():
    points, _ = make_data(10)
    assert fit(ProcessModel(KERNEL_CHOICES[0], 0.1), points, np.zeros(10)).agreement(np.zeros(10)) == 0


@pytest.mark.parametrize(("mean", "deviation", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 1.0), (-1.0, 0.5, 1.0)])
def test_expected_improvement_equals_its_integral(mean, deviation, best):
    from scipy.integrate import quad  # Imported here, because only this test needs the module.

    density = NormalDist(mean, deviation).pdf
    integral, _ = quad(lambda value: (value - best) * density(value), best, best + 20)
    improvement = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert improvement[0] == pytest.approx(integral, abs=1e-9)
