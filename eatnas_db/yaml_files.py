"""Read YAML 1.2: `010` is 10, `1:30` is a string, `1e2` is 100, and duplicate keys are errors.

Only programs that read specs or configurations import this module, because the parser is slow to load.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.nodes import Node, ScalarNode

from eatnas_db.domain.plain_scalars import PlainScalar
from eatnas_db.errors import EatnasError
from eatnas_db.text_encoding import find_unstorable

MAX_VALUES: Final = 100_000
TAG: Final = "tag:yaml.org,2002:"


class YamlFormatError(EatnasError):
    """A document is not valid YAML, or has a duplicate key. The message names the lines."""


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML document, in which numbers and booleans are `PlainScalar` objects.

    Raises `YamlFormatError` with one line that names the place in the text.
    """
    parser = YAML(typ="safe", pure=True)
    parser.Constructor = _StrictConstructor
    parser.version = "1.2"
    try:
        tree = _with_text_keys(parser.load(text), itertools.count())
    except MarkedYAMLError as error:
        raise YamlFormatError(_describe(error)) from None
    except YAMLError as error:
        raise YamlFormatError(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlFormatError("it is nested too deeply, or refers to itself") from None
    except ValueError as error:  # a number with thousands of digits
        raise YamlFormatError(str(error).partition(";")[0]) from None
    if (unstorable := find_unstorable(tree)) is not None:
        raise YamlFormatError(f"the text {unstorable} has characters that cannot be stored; write it in UTF-8")
    return tree


def _with_text_keys(tree: Any, count: Iterator[int]) -> Any:
    if next(count) > MAX_VALUES:  # a few lines of nested aliases can expand to gigabytes
        raise YamlFormatError(f"it has more than {MAX_VALUES:,} values; write fewer references (*name)")
    if isinstance(tree, dict):
        return {_key_text(key): _with_text_keys(value, count) for key, value in tree.items()}
    return [_with_text_keys(value, count) for value in tree] if isinstance(tree, list) else tree


def _key_text(key: Any) -> str:
    if isinstance(key, PlainScalar):
        return key.text
    if not isinstance(key, str):
        raise YamlFormatError(f"the key {key!r} is not a string")
    return key


class _StrictConstructor(SafeConstructor):
    """Construct plain Python objects. Keep the spelling of numbers and booleans, and refuse duplicate keys."""

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        """Return whether a key is new in its mapping. Raises `MarkedYAMLError` if the key is a duplicate."""
        if key in mapping:
            keys = (other for other, _ in node.value)
            first = next((other for other in keys if self.construct_object(other, deep=True) == key), key_node)
            lines = f"in line {_line(first)} and again in line {_line(key_node)}"
            raise MarkedYAMLError(problem=f"the key {key_node.value!r} is given twice, {lines}; remove one of them")
        return True


def _keep_text(construct: Any) -> Any:
    def construct_scalar(constructor: Any, node: ScalarNode) -> PlainScalar | int | float | bool:
        value = construct(constructor, node)
        # A quoted scalar is a number or a boolean only if it has a tag, such as !!int "5".
        return PlainScalar(node.value, value) if node.style is None else value

    return construct_scalar


def _construct_text(constructor: Any, node: ScalarNode) -> str:
    return str(constructor.construct_scalar(node))


for _kind, _construct in {
    "int": SafeConstructor.construct_yaml_int,
    "float": SafeConstructor.construct_yaml_float,
    "bool": SafeConstructor.construct_yaml_bool,
}.items():
    _StrictConstructor.add_constructor(TAG + _kind, _keep_text(_construct))
# Construct strings, because YAML 1.2 has no dates, and `=` is a string.
for _kind in ("timestamp", "value"):
    _StrictConstructor.add_constructor(TAG + _kind, _construct_text)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _describe(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    problem = " ".join(str(error.problem or error.context or "it cannot be read").split())
    if problem.startswith("but "):
        problem = f"{error.context} {problem}"
    if not isinstance(mark, StreamMark):
        return problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
