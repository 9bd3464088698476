import json

import pytest

from eatnas_db.domain.macro import PRESETS, Macro
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import InvalidSpecError

LEAST = {"name": "first", "data": {"name": "digits"}}
OWN = {
    "name": "mine",
    "stem_channels": 8,
    "strides": [1, 2, 1],
    "base": [8, 16, 24],
    "head_channels": 64,
}


def refusal(tree=LEAST, **overrides) -> str:
    with pytest.raises(InvalidSpecError) as caught:
        parse_spec(tree, {key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value)


def test_a_name_and_a_data_set_are_enough():
    spec = parse_spec(LEAST)
    assert (spec.name, spec.data.name, spec.space) == ("first", "digits", "eatnas-small")


@pytest.mark.parametrize("tree", [None, [], "name: x", 3])
def test_what_is_no_mapping_is_refused(tree):
    assert "a spec must be a mapping" in refusal(tree)


@pytest.mark.parametrize("missing", ["name", "data"])
def test_a_missing_key_is_named(missing):
    tree = {key: value for key, value in LEAST.items() if key != missing}
    assert refusal(tree) == f"{missing}: required key is missing"


def test_an_unknown_key_names_the_nearest_known_one():
    assert "evolution.turnament: unknown key 'turnament'; did you mean tournament?" in refusal(evolution__turnament=3)
    assert "trainin: unknown key 'trainin'; did you mean training?" in refusal(trainin={})
    assert "space.stride: unknown key 'stride'; did you mean strides?" in refusal(space={**OWN, "stride": [1]})


def test_a_key_of_a_section_written_outside_names_its_section():
    assert "did you mean evolution.tournament?" in refusal(tournament=3)


def test_a_macro_may_not_take_the_name_of_one_that_is_built_in():
    assert "space.name: eatnas-tiny is the name of a built-in space" in refusal(space={**OWN, "name": "eatnas-tiny"})


@pytest.mark.parametrize("key", ["str", "MacroSpec", "function-before", "data.str"])
def test_an_unknown_key_may_be_called_anything(key):
    assert f"{key}: unknown key {key.split('.')[-1]!r}" in refusal(**{key: 1})


def test_keys_that_are_no_words_are_refused():
    assert "keys should be strings" in refusal({**LEAST, 1: 2})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", "ten"),
        ("training.epochs", 2.5),
        ("training.epochs", True),
        ("training.epochs", None),
        ("training.learning_rate", "fast"),
        ("training.learning_rate", [0.1]),
        ("data.name", 3),
        ("name", 7),
        ("evolution", [1]),
        ("space", 5),
        ("space", None),
    ],
)
def test_a_wrong_type_names_the_key_and_the_value(key, value):
    said = refusal(**{key: value})
    assert said.startswith(f"{key}: ")
    assert f"(given: {value!r})" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**63),
        ("priority", 1001),
        ("name", ""),
        ("name", "../escape"),
        ("name", "a" * 65),
        ("data.resolution", 3),
        ("data.train_images", 0),
        ("training.epochs", 0),
        ("training.batch_size", 1),
        ("training.learning_rate", 0),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", float("inf")),
        ("training.warmup", 1),
        ("training.augment", "rotate"),
        ("evolution.population", 1),
        ("evolution.removal", "youngest"),
        ("evolution.lag", 0),
        ("objective.max_params", 0),
        ("objective.target_mult_adds", 2**63),
        ("budget.candidates", 0),
        ("budget.device_hours", 0),
    ],
)
def test_a_value_out_of_range_names_the_key_and_the_value(key, value):
    said = refusal(**{key: value})
    assert said.startswith(f"{key}: ")
    assert f"(given: {value!r})" in said


def test_a_tournament_is_no_larger_than_the_population():
    said = refusal(evolution__population=4, evolution__tournament=5)
    assert "tournament (5) cannot be larger than population (4)" in said


def test_the_lag_is_no_larger_than_the_population():
    said = refusal(evolution__population=8, evolution__lag=9)
    assert "lag (9) cannot be larger than population (8)" in said


def test_an_unknown_space_names_the_nearest_and_all_there_are():
    said = refusal(space="eatnas-smal")
    assert "did you mean eatnas-small?" in said
    assert all(name in said for name in PRESETS)


def test_every_mistake_has_its_line():
    lines = refusal(training__epochs=0, evolution__lga=3, seed=-1).splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed", "training.epochs", "evolution.lga"]


def test_overrides_reach_into_sections_that_the_file_leaves_out():
    tree = {**LEAST, "training": {"epochs": 3}}
    spec = parse_spec(tree, {"training.batch_size": 32, "budget.candidates": 7, "seed": 5})
    assert (spec.training.epochs, spec.training.batch_size) == (3, 32)
    assert (spec.budget.candidates, spec.seed) == (7, 5)
    assert tree == {**LEAST, "training": {"epochs": 3}}


def test_an_override_below_a_plain_value_is_refused():
    assert "name is 'first', not a section" in refusal(name__first=1)
    assert "empty key" in refusal(**{"training.": 1})


def test_yaml_numbers_without_a_point_count_as_numbers():
    assert parse_spec(LEAST, {"training.weight_decay": "4e-5"}).training.weight_decay == 4e-5


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_taken_by_name(name):
    assert parse_spec(LEAST, {"space": name}).macro() is PRESETS[name]


def test_a_macro_of_the_users_own():
    macro = parse_spec({**LEAST, "space": OWN}).macro()
    assert macro == Macro("mine", 8, 1, (1, 2, 1), (8, 16, 24), 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": [8, 16]}, "strides has 3 entries and base has 2"),
        ({"strides": [1, 2, 5]}, "every stride must be from 1 to 4"),
        ({"base": [8, 16, 0]}, "every base must be from 1 to 16384"),
        ({"strides": [1, 2, "a"]}, "space.strides.2: "),
        ({"stem_channels": 0}, "space.stem_channels: "),
        ({"multiplier": 0}, "space.multiplier: "),
    ],
)
def test_a_bad_macro_says_what_is_wrong(change, said):
    assert said in refusal(space={**OWN, **change})


@pytest.mark.parametrize("macro", PRESETS.values(), ids=PRESETS)
def test_a_macro_comes_back_whole_out_of_the_record(macro):
    assert Macro.from_json(json.loads(json.dumps(macro.to_json()))) == macro


def test_the_interval_of_checkpoints_is_no_part_of_the_recipe():
    often, seldom = (parse_spec(LEAST, {"training.checkpoint_seconds": n}).training.without_timing() for n in (1, 99))
    assert often == seldom
    assert "epochs" in often


def test_an_inheriting_search_that_does_not_remove_the_oldest_is_worth_a_word():
    tree = {"name": "s", "data": {"name": "digits"}, "inheritance": {"weights": "inherited"}}
    assert parse_spec(tree).warnings == ()
    (warning,) = parse_spec(tree, {"evolution.removal": "worst"}).warnings
    assert warning.startswith("evolution.removal is worst and weights are inherited")
    assert parse_spec(tree, {"evolution.removal": "mixed", "inheritance.weights": "fresh"}).warnings == ()
