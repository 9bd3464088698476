import json

import pytest

from eatnas_db.domain.macro import PRESETS, Macro
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import InvalidSpecError

MINIMAL = {"name": "first", "data": {"name": "digits"}}
CUSTOM_MACRO = {
    "name": "mine",
    "stem_channels": 8,
    "strides": [1, 2, 1],
    "base": [8, 16, 24],
    "head_channels": 64,
}


def error_message(tree=MINIMAL, **overrides) -> str:
    with pytest.raises(InvalidSpecError) as raised:
        parse_spec(tree, {key.replace("__", "."): value for key, value in overrides.items()})
    return str(raised.value)


def test_name_and_data_set_are_enough():
    spec = parse_spec(MINIMAL)
    assert (spec.name, spec.data.name, spec.space) == ("first", "digits", "eatnas-small")


@pytest.mark.parametrize("tree", [None, [], "name: x", 3])
def test_spec_must_be_a_mapping(tree):
    assert "a spec must be a mapping" in error_message(tree)


@pytest.mark.parametrize("missing", ["name", "data"])
def test_missing_key_is_named(missing):
    tree = {key: value for key, value in MINIMAL.items() if key != missing}
    assert error_message(tree) == f"{missing}: required key is missing"


def test_unknown_key_error_suggests_the_closest():
    assert "evolution.turnament: unknown key 'turnament'; did you mean tournament?" in error_message(
        evolution__turnament=3
    )
    assert "trainin: unknown key 'trainin'; did you mean training?" in error_message(trainin={})
    assert "space.stride: unknown key 'stride'; did you mean strides?" in error_message(
        space={**CUSTOM_MACRO, "stride": [1]}
    )


def test_misplaced_key_error_names_its_section():
    assert "did you mean evolution.tournament?" in error_message(tournament=3)


def test_macro_cannot_have_the_name_of_a_preset():
    assert "space.name: eatnas-tiny is the name of a built-in space" in error_message(
        space={**CUSTOM_MACRO, "name": "eatnas-tiny"}
    )


@pytest.mark.parametrize("key", ["str", "MacroSpec", "function-before", "data.str"])
def test_unknown_key_may_look_like_pydantic_internals(key):
    assert f"{key}: unknown key {key.split('.')[-1]!r}" in error_message(**{key: 1})


def test_keys_must_be_strings():
    assert "keys should be strings" in error_message({**MINIMAL, 1: 2})


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
def test_wrong_type_error_names_key_and_value(key, value):
    message = error_message(**{key: value})
    assert message.startswith(f"{key}: ")
    assert f"(given: {value!r})" in message


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
        ("objective.metric", "perplexity of x"),
        ("objective.direction", "down"),
        ("objective.target_mult_adds", 2**63),
        ("budget.candidates", 0),
        ("budget.device_hours", 0),
    ],
)
def test_out_of_range_error_names_key_and_value(key, value):
    message = error_message(**{key: value})
    assert message.startswith(f"{key}: ")
    assert f"(given: {value!r})" in message


def test_tournament_is_at_most_the_population():
    message = error_message(evolution__population=4, evolution__tournament=5)
    assert "tournament (5) cannot be larger than population (4)" in message


def test_lag_is_at_most_the_population():
    message = error_message(evolution__population=8, evolution__lag=9)
    assert "lag (9) cannot be larger than population (8)" in message


def test_unknown_space_error_lists_all_spaces():
    message = error_message(space="eatnas-smal")
    assert "did you mean eatnas-small?" in message
    assert all(name in message for name in PRESETS)


def test_every_error_has_its_own_line():
    lines = error_message(training__epochs=0, evolution__lga=3, seed=-1).splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed", "training.epochs", "evolution.lga"]


def test_overrides_create_missing_sections():
    tree = {**MINIMAL, "training": {"epochs": 3}}
    spec = parse_spec(tree, {"training.batch_size": 32, "budget.candidates": 7, "seed": 5})
    assert (spec.training.epochs, spec.training.batch_size) == (3, 32)
    assert (spec.budget.candidates, spec.seed) == (7, 5)
    assert tree == {**MINIMAL, "training": {"epochs": 3}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "name: expected 1 to 64 ASCII letters, digits, `_`, `.` and `-` that begin with a letter"),
        ({"space": {**CUSTOM_MACRO, "name": ""}}, "space.name: expected 1 to 64 ASCII letters"),
        ({"objective__metric": "a b"}, "objective.metric: expected 1 to 32 ASCII letters"),
        (
            {"training__program": "train"},
            "training.program: expected module:function, for example my_package.train:train (given: 'train')",
        ),
        ({"transfer__primitives": []}, "transfer.primitives: expected at least 1 value (given: [])"),
        ({"transfer__sources": list("abcdefgh")}, "transfer.sources: expected at most 7 values (given: ["),
    ],
)
def test_errors_describe_names_and_lists_in_words(change, message):
    assert message in error_message(**change)


def test_override_inside_a_plain_value_is_refused():
    assert "name is 'first', not a section" in error_message(name__first=1)
    assert "empty key" in error_message(**{"training.": 1})


def test_yaml_numbers_without_a_point_are_numbers():
    assert parse_spec(MINIMAL, {"training.weight_decay": "4e-5"}).training.weight_decay == 4e-5


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_chosen_by_name(name):
    assert parse_spec(MINIMAL, {"space": name}).macro() is PRESETS[name]


def test_custom_macro():
    macro = parse_spec({**MINIMAL, "space": CUSTOM_MACRO}).macro()
    assert macro == Macro("mine", 8, 1, (1, 2, 1), (8, 16, 24), 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": [8, 16]}, "strides has 3 and base has 2"),
        ({"strides": [1, 2, 5]}, "every number in strides must be from 1 to 4"),
        ({"base": [8, 16, 0]}, "every number of channels in base must be from 1 to 16384"),
        ({"strides": [1, 2, "a"]}, "space.strides.2: "),
        ({"stem_channels": 0}, "space.stem_channels: "),
        ({"multiplier": 0}, "space.multiplier: "),
    ],
)
def test_invalid_macro_error_names_the_problem(change, message):
    assert message in error_message(space={**CUSTOM_MACRO, **change})


@pytest.mark.parametrize("macro", PRESETS.values(), ids=PRESETS)
def test_macro_round_trips_through_json(macro):
    assert Macro.from_json(json.loads(json.dumps(macro.to_json()))) == macro


def test_recipe_excludes_the_checkpoint_interval():
    frequent, rare = (
        parse_spec(MINIMAL, {"training.checkpoint_seconds": n}).training.without_timing() for n in (1, 99)
    )
    assert frequent == rare
    assert "epochs" in frequent


def test_inheritance_without_oldest_removal_warns():
    tree = {"name": "s", "data": {"name": "digits"}, "inheritance": {"weights": "inherited"}}
    assert parse_spec(tree).warnings == ()
    (warning,) = parse_spec(tree, {"evolution.removal": "worst"}).warnings
    assert warning.startswith("evolution.removal is worst and weights are inherited")
    assert parse_spec(tree, {"evolution.removal": "mixed", "inheritance.weights": "fresh"}).warnings == ()


def test_population_beyond_the_budget_warns():
    sizes = {"evolution.population": 6, "budget.candidates": 5}
    (warning,) = parse_spec(MINIMAL, sizes).warnings
    assert warning.startswith("evolution.population is 6 and budget.candidates is 5: the search ends before")
    assert parse_spec(MINIMAL, {**sizes, "budget.candidates": 6}).warnings == ()


def test_stored_spec_leaves_out_the_default_metric():
    assert set(parse_spec(MINIMAL).model_dump()["objective"]) == {
        "target_mult_adds",
        "exponent",
        "max_params",
        "max_mult_adds",
    }
    stored = parse_spec(MINIMAL, {"objective.metric": "val_loss"}).model_dump(mode="json")
    assert stored["objective"]["metric"] == "val_loss"
    assert parse_spec(stored).objective.metric == "val_loss"


def test_metric_must_be_one_that_the_training_measures():
    message = error_message(objective__metric="perplexity")
    assert message == (
        "objective.metric is perplexity, but the built-in training measures only val_accuracy and val_loss; "
        "choose one of them"
    )


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"metric": "id"}, "objective.metric: the metric id is reserved for the record; choose another name"),
        (
            [{"metric": "error", "direction": "minimize"}, {"metric": "a b", "direction": "minimize"}],
            r"objective.metrics\[1\].metric: 'a b' is not a valid metric name",
        ),
    ],
)
def test_metric_of_a_program_has_a_free_name(objective, message):
    tree = {**MINIMAL, "training": {"program": "package:train"}, "objective": objective}
    with pytest.raises(InvalidSpecError, match=message):
        parse_spec(tree)


def test_acquisition_per_second_needs_guided_births():
    changes = {"evolution.acquisition": "improvement_per_second"}
    with pytest.raises(InvalidSpecError, match="`acquisition: improvement_per_second` needs `births: guided`"):
        parse_spec(MINIMAL, changes)
    stored = parse_spec(MINIMAL, {**changes, "evolution.births": "guided"}).model_dump(mode="json")["evolution"]
    assert stored["acquisition"] == "improvement_per_second"
    assert "acquisition" not in parse_spec(MINIMAL, {"evolution.births": "guided"}).model_dump(mode="json")["evolution"]
