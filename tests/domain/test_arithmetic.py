"""Environment variables that change the bits of a worker's results are fixed, removed or recorded."""

import pytest

from eatnas_db.domain.arithmetic import (
    FAST_MATH,
    FIXED_SETTINGS,
    PORTABLE_SETTINGS,
    SETTINGS,
    arithmetic_of,
    is_portable,
    recorded_settings,
    worker_variables,
)
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.spec import TrainingSpec

HOSTILE = {"PATH": "/bin", **dict.fromkeys((*SETTINGS, *FAST_MATH, *FIXED_SETTINGS), "1")}


def test_fast_math_never_reaches_a_worker():
    for arithmetic in ("native", "portable"):
        variables = worker_variables(HOSTILE, arithmetic)
        assert not set(variables) & set(FAST_MATH)
        assert variables.items() >= {"PATH": "/bin", **FIXED_SETTINGS}.items()


def test_portable_worker_ignores_the_settings_of_the_machine():
    assert recorded_settings(worker_variables(HOSTILE, "portable")) == PORTABLE_SETTINGS
    assert is_portable(worker_variables({}, "portable"))
    assert not is_portable(worker_variables({}, "native"))


def test_native_worker_obeys_and_records_the_settings_of_the_machine():
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "HOME": "/root"}
    assert recorded_settings(worker_variables(limited, "native")) == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert set(recorded_settings(worker_variables(HOSTILE, "native"))) == set(SETTINGS)


def test_native_arithmetic_leaves_the_recipe_unchanged():
    assert "arithmetic" not in TrainingSpec().without_timing()
    assert TrainingSpec(arithmetic="portable").without_timing()["arithmetic"] == "portable"
    assert without_timing({"epochs": 3, "arithmetic": "native"}) == {"epochs": 3}


@pytest.mark.parametrize(("training", "arithmetic"), [({}, "native"), ({"arithmetic": "portable"}, "portable")])
def test_specs_without_the_field_are_native(training, arithmetic):
    assert arithmetic_of({"training": training}) == arithmetic
