from __future__ import annotations

from typing import Any

import pytest

from eatnas_db.domain.final_recipe import FINAL_PRESETS, METHODS_OFF, final_recipe
from eatnas_db.domain.spec import TrainingSpec, parse_spec
from eatnas_db.domain.spec_final import FinalSpec, parse_final
from eatnas_db.domain.spec_recipe import TrainingRecipe
from eatnas_db.errors import InvalidSpecError

SPEC: dict[str, Any] = {"name": "s", "data": {"name": "digits"}}
TRAINING = TrainingSpec().model_dump()


def test_recipe_without_keys_is_the_search_recipe_for_longer():
    assert final_recipe(TRAINING, {}) == {**TRAINING, "epochs": 40}


def test_keys_take_precedence_over_the_preset_and_the_search():
    recipe = final_recipe(TRAINING, {"preset": "strong", "epochs": 5, "ema_decay": 0.5})
    assert recipe == {**TRAINING, **FINAL_PRESETS["strong"], "epochs": 5, "ema_decay": 0.5}


def test_method_that_is_off_is_not_in_the_recipe():
    off = {key: value for key, value in METHODS_OFF.items() if value is not None}
    assert not METHODS_OFF.keys() & final_recipe(TRAINING, {"preset": "strong", **off}).keys()


def test_stored_spec_has_the_section_only_if_set():
    assert "final" not in parse_spec(SPEC).model_dump(mode="json")
    stored = parse_spec({**SPEC, "final": {"preset": "strong", "mixup": 0}}).model_dump(mode="json")
    assert stored["final"] == {"preset": "strong", "mixup": 0.0}
    stored = parse_spec({**SPEC, "final": {"from": "007/12"}}).model_dump(mode="json")
    assert stored["final"] == {"from": "007/12"}
    assert parse_spec(stored).model_dump(mode="json") == stored


def test_every_key_of_the_section_is_one_of_the_recipe():
    fields = {field.alias or name: field for name, field in TrainingRecipe.model_fields.items()}
    assert set(FinalSpec.keys()) - {"preset"} <= fields.keys()
    added = fields.keys() - TrainingSpec.model_fields.keys()
    assert {key: fields[key].default for key in added} == METHODS_OFF
    for preset in FINAL_PRESETS.values():
        TrainingRecipe(**final_recipe(TRAINING, parse_final(preset)))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"presett": "strong"}, "final.presett: unknown key 'presett'; did you mean preset?"),
        ({"preset": "weak"}, "final.preset: input should be 'eatnas-paper' or 'strong' (given: 'weak')"),
        ({"from": "a/b/c"}, "final.from: expected none, SEARCH, or SEARCH/CANDIDATE with the id of the candidate"),
        ({"from_": "digits"}, "final.from_: unknown key 'from_'; did you mean from?"),
        ({"mixup": -1}, "final.mixup: input should be greater than or equal to 0 (given: -1)"),
        ({"end_epochs": 3}, "final: end_resolution and end_epochs need each other; set both or neither"),
        ({"end_epochs": 41, "end_resolution": 9}, "final.end_epochs: 41 exceeds the 40 epochs of a final model"),
    ],
)
def test_invalid_section_is_reported_in_one_line(keys: dict[str, Any], line: str):
    with pytest.raises(InvalidSpecError) as raised:
        parse_spec({**SPEC, "final": keys})
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
