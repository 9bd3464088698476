"""The estimated duration of the paper's search on a device."""

import pytest

from eatnas_db.domain.activations import count_activations
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.paper_search import (
    FLOAT32_BYTES,
    MOVES,
    PAPER_GPU_HOURS,
    TITAN_X_BYTES_PER_SECOND,
    estimate_paper_hours,
)

CODE = "mb3_k3_d2_w1.0_skip/" * 6 + "mb3_k3_d2_w1.0_skip"


def test_titan_itself_needs_the_hours_of_the_paper():
    activations = count_activations(Architecture.parse(CODE), PRESETS["eatnas-imagenet"], Task(224, 3, 1000))
    slow, fast = (speed / (MOVES * FLOAT32_BYTES * activations) for speed in TITAN_X_BYTES_PER_SECOND)
    assert 50 < slow < fast < 1000
    assert estimate_paper_hours(slow, activations)[0] == pytest.approx(PAPER_GPU_HOURS)
    assert estimate_paper_hours(fast, activations)[1] == pytest.approx(PAPER_GPU_HOURS)


def test_twice_the_speed_halves_the_hours():
    slow, fast = (estimate_paper_hours(speed, 10**6) for speed in (100, 200))
    assert slow == pytest.approx(tuple(2 * hours for hours in fast))
    assert slow[0] < slow[1]
