"""Describe the errors of a spec in terms of its keys, one line per error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from eatnas_db.domain.plain_scalars import plain_texts, plain_values
from eatnas_db.domain.spec_patterns import DESCRIPTIONS
from eatnas_db.domain.suggestions import did_you_mean


def describe_errors(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each error that pydantic found in a spec.

    The line states the key, the allowed values, and the given value.
    """
    lines: list[str] = []
    for details in error.errors():
        location = _location(details)
        path = ".".join(location)
        if location == ["space"] and details["type"] in ("string_type", "model_type"):
            # `space` is a name or a macro. Pydantic reports an error for each alternative, and neither error is
            # helpful.
            if not isinstance(details["input"], dict) and not any("space:" in line for line in lines):
                lines.append(f"space: expected a name or a macro (given: {plain_values(details['input'])!r})")
        elif details["type"] == "extra_forbidden":
            lines.append(f"{path}: {_describe_unknown_key(location, model)}")
        elif details["type"] == "missing":
            lines.append(f"{path}: required key is missing")
        elif details["type"] == "tuple_type":
            lines.append(f"{path}: expected a list; write [{plain_texts(details['input'])}]")
        else:
            message = _describe_expectation(details)
            given = plain_values(details["input"])
            shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
            key = f"{path}: " if path else ""  # the message of a rule about two sections names their keys
            lines.append(f"{key}{message[:1].lower()}{message[1:]}{shown}")
    return lines


def _describe_expectation(details: ErrorDetails) -> str:
    """Return in words what pydantic expected, instead of a class of Python or a regular expression."""
    context = details.get("ctx", {})
    if details["type"] == "model_type":
        return "expected a section of keys and values"
    if details["type"] == "string_pattern_mismatch" and context["pattern"] in DESCRIPTIONS:
        return f"expected {DESCRIPTIONS[context['pattern']]}"
    if details["type"] in ("too_short", "too_long"):
        is_short = details["type"] == "too_short"
        limit = context["min_length" if is_short else "max_length"]
        return f"expected at {'least' if is_short else 'most'} {limit} value{'s' * (limit != 1)}"
    return details["msg"].removeprefix("Value error, ")


def describe_unknown(word: str, known: Collection[str], noun: str) -> str:
    """Return the error for an unknown key or name: the most similar known word, and all known words."""
    return f"unknown {noun} {word!r}{did_you_mean(word, known)} (known: {', '.join(known)})"


def _location(details: ErrorDetails) -> list[str]:
    location = list(map(str, details["loc"]))
    if location[:1] == ["space"] and len(location) > 1:
        del location[1]  # pydantic's name for the branch of the union (str, MacroSpec), which is not a key of the spec
    if location[-2:] == ["program", "reference"]:
        del location[-1]  # the record writes the program as a section; a user writes only the reference
    return location


def _describe_unknown_key(location: Sequence[str], model: type[BaseModel]) -> str:
    *section, key = location
    known = _fields_at(model, section)
    owners = [name for name in model.model_fields if key in _fields_at(model, [name], include_unions=False)]
    if len(owners) == 1:
        known = [f"{owners[0]}.{key}"]
    return describe_unknown(key, known, "key")


def _fields_at(model: type[BaseModel], location: Sequence[str], *, include_unions: bool = True) -> list[str]:
    """Return the keys of the section at `location`, or an empty list if there is no section."""
    for part in location:
        if part.isdecimal():  # an index of a list, whose entries all have the same keys
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        arguments = get_args(annotation) if include_unions else ()
        options = [annotation, *arguments, *(inner for option in arguments for inner in get_args(option))]
        sections = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return [field.alias or name for name, field in model.model_fields.items()]
