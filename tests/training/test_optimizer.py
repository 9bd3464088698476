from __future__ import annotations

import pytest

from eatnas_training.optimizer import learning_rate


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 0.4, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_learning_rate_is_positive_in_the_shortest_trainings(steps: int, warmup: float) -> None:
    assert all(0 < learning_rate(step, steps, 0.1, warmup) <= 0.1 for step in range(steps))
