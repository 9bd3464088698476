"""Specs are YAML 1.2, and a string field takes numbers and booleans as they are written."""

import re

import pytest

from eatnas_daemon.search_creation import parse_overrides
from eatnas_db.domain.plain_scalars import plain_values
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import InvalidSpecError
from eatnas_db.strict_json import DuplicateKeyError, parse_json
from eatnas_db.yaml_files import YamlFormatError, parse_yaml

SPEC = {"name": "s", "data": {"name": "digits"}}
OWN_SPACE = "{name: 007, stem_channels: 8, strides: [01, 2], base: [8, 16], head_channels: 64}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("1:30", "1:30"),
        ("1e2", 100.0),
        ("yes", "yes"),
        ("off", "off"),
        ("2001-01-01", "2001-01-01"),
        ("true", True),
        ("~", None),
        ("[1, {a: 2}]", [1, {"a": 2}]),
        ("1: 2", {"1": 2}),
        ("<<: {a: 1}\na: 2", {"a": 2}),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    assert plain_values(parse_yaml(text)) == value


def test_references_to_references_are_counted():
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12))]
    with pytest.raises(YamlFormatError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice, in line 1 and again in line 3; remove one of them"),
        ("b:\n  'a': 1\n  a: 2", "the key 'a' is given twice, in line 2 and again in line 3"),
        ("a: [", "line 1, column 5: "),
        ("a: 1\n---\na: 2", "line 2, column 1: expected a single document"),
        ("&a [*a]", "refers to itself"),
        ("[" * 1000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("? [1]\n: 2", "is not a string"),
        ("? [1]\n: 2\n? [1]\n: 2", "given twice"),
        ("a: !!python/object:os.system 1", "line 1, column 4: "),
        ("\0", "unacceptable character"),
    ],
)
def test_error_is_one_line_that_names_the_place(text, message):
    with pytest.raises(YamlFormatError) as raised:
        parse_yaml(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["1_0", "010.", "1.0", "1e2", "true", "2001-01-01", "0x1f"])
def test_text_fields_take_numbers_unchanged(name):
    assert parse_spec(SPEC, parse_overrides([f"name={name}"])).name == name
    assert parse_spec(parse_yaml(f"name: {name}\ndata: {{name: digits, root: {name}}}")).data.root == name


@pytest.mark.parametrize("name", ["1", "010", "9" * 64])
def test_name_of_digits_is_refused(name):
    assert parse_spec(parse_yaml(f"name: s\ndata: {{name: digits, root: {name}}}")).data.root == name
    with pytest.raises(
        InvalidSpecError, match="name: a name that has only digits would be read as the id of a candidate"
    ):
        parse_spec(SPEC, parse_overrides([f"name={name}"]))


def test_sections_of_a_spec_convert_their_own_values():
    spec = parse_spec(SPEC, parse_overrides([f"space={OWN_SPACE}", "training={epochs: 1e1}", "data.root=5"]))
    assert (spec.space.name, spec.space.strides, spec.training.epochs, spec.data.root) == ("007", (1, 2), 10, "5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs=1:30", "(given: '1:30')"),
        ("training.epochs=true", "a boolean (true, false) is not allowed here (given: True)"),
        ("training.epochs=1.5", "(given: 1.5)"),
        ("name.first=1", "name is 's', not a section"),
        ("transfer.primitives=op", "transfer.primitives: expected a list; write [op]"),
        ("space=5", "unknown space '5'"),
        ("training=3", "training: expected a section of keys and values (given: 3)"),
    ],
)
def test_value_of_another_kind_is_refused_plainly(change, message):
    with pytest.raises(InvalidSpecError) as raised:
        parse_spec(SPEC, parse_overrides([change]))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["seed=1", "seed=1"], "replaces the value of --set seed"),
        (["training.epochs=1", "training.augment=none", "training.epochs=2"], "--set training.epochs=2: it replaces"),
        (["training.epochs=1", "training={epochs: 2}"], "replaces the value of --set training.epochs"),
    ],
)
def test_a_set_option_that_replaces_another_one_is_refused(assignments, words):
    with pytest.raises(InvalidSpecError, match=re.escape(words)):
        parse_overrides(assignments)


def test_set_options_may_complete_each_other():
    overrides = parse_overrides(["training={epochs: 1}", "training.augment=none", "train=1"])
    assert list(overrides) == ["training", "training.augment", "train"]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_json_with_a_duplicate_key_is_refused(text):
    with pytest.raises(DuplicateKeyError, match="the key 'a' is given twice"):
        parse_json(text)


def test_value_that_ends_with_a_colon_is_explained():
    with pytest.raises(InvalidSpecError, match=r"--set data\.name=hf:: YAML reads a text that ends with a colon"):
        parse_overrides(["data.name=hf:"])
    assert parse_overrides(["data.name='hf:'", "space={a: }"]) == {"data.name": "hf:", "space": {"a": None}}
