"""Convert the values of parameters without pydantic.

Since version 0.29, typer loads pydantic to convert values. Loading pydantic takes longer than a quick query. Our
parameters have simple types: text, number, path, choice, and lists of these. An invalid value, or a value of another
type, is passed to typer, which converts it or raises the error.
"""

from __future__ import annotations

import math
import os
import re
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from eatnas_db.urls import expand_home

HELP_OPTIONS: Final = ["-h", "--help"]
_INTEGER: Final = re.compile(r"-?[0-9]{1,30}")
_FLOAT: Final = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?(e-?[0-9]{1,2})?")


class _NotSimpleError(Exception):
    """The value is invalid, or its type is not simple."""


class _DirectOption(TyperOption):
    """An option whose simple values are converted without pydantic."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        """Return the converted value, as typer's method does."""
        try:
            converted = _converted(self, value)
        except _NotSimpleError:
            return _with_home(super().process_value(ctx, value))
        return converted if self.callback is None else self.callback(ctx, self, converted)


class _DirectArgument(TyperArgument):
    """An argument whose simple values are converted without pydantic."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        """Return the converted value, as typer's method does."""
        try:
            converted = _converted(self, value)
        except _NotSimpleError:
            return _with_home(super().process_value(ctx, value))
        return converted if self.callback is None else self.callback(ctx, self, converted)


def convert_directly(command: TyperCommand | TyperGroup) -> None:
    """Convert the parameters of a command and its subcommands to the classes above, and add the option `-h`."""
    command.context_settings.setdefault("help_option_names", HELP_OPTIONS)
    for parameter in (*command.params, command.get_help_option(typer.Context(command, **command.context_settings))):
        # Older versions of typer convert without pydantic anyway.
        if hasattr(parameter, "type_descriptor"):
            if type(parameter) is TyperOption:
                parameter.__class__ = _DirectOption
            elif type(parameter) is TyperArgument:
                parameter.__class__ = _DirectArgument
    # Skip lazy groups: their commands are converted when they are loaded.
    if isinstance(command, TyperGroup) and isinstance(command.commands, dict):
        for member in command.commands.values():
            if isinstance(member, TyperCommand | TyperGroup):
                convert_directly(member)


def _converted(parameter: TyperOption | TyperArgument, value: Any) -> Any:
    annotation: Any = parameter.type_descriptor.annotation
    if parameter.required and value in (None, (), []):
        raise _NotSimpleError
    if parameter.multiple or parameter.nargs == -1:
        if value is None:
            return ()
        if get_origin(annotation) is not list or not isinstance(value, list | tuple):
            raise _NotSimpleError
        (item,) = get_args(annotation)
        return [_converted_single(parameter, item, part) for part in value]
    return None if value is None else _converted_single(parameter, annotation, value)


def _converted_single(parameter: TyperOption | TyperArgument, annotation: Any, value: Any) -> Any:
    if annotation is str and isinstance(value, str):
        return value
    if annotation is int or annotation is float:
        return _number(parameter, annotation, value)
    if annotation is Path:
        return _path(parameter, value)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        for member in annotation:
            if value is member or value == member.value:
                return member
    raise _NotSimpleError


def _with_home(value: Any) -> Any:
    """Return a converted value, with `~` expanded if it is a path."""
    return expand_home(value) if isinstance(value, Path) else value


def _number(parameter: TyperOption | TyperArgument, kind: type[int] | type[float], value: Any) -> int | float:
    if isinstance(value, str):
        if not (_INTEGER if kind is int else _FLOAT).fullmatch(value):
            raise _NotSimpleError
        value = kind(value)
    if type(value) is not kind or not math.isfinite(value):
        raise _NotSimpleError
    if parameter.min is not None and value < parameter.min:
        raise _NotSimpleError
    if parameter.max is not None and value > parameter.max:
        raise _NotSimpleError
    return value


def _path(parameter: TyperOption | TyperArgument, value: Any) -> Path:
    info = parameter.type_descriptor.parameter_info
    if info.exists or info.writable or info.resolve_path or not (info.file_okay and info.dir_okay and info.readable):
        raise _NotSimpleError
    if not isinstance(value, str):
        raise _NotSimpleError
    path = expand_home(Path(value))
    if path.exists() and not os.access(path, os.R_OK):
        raise _NotSimpleError
    return path
