"""Declare options that belong together once, and add them to a command as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

Command = Callable[..., None]


def takes_options(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Replace keyword parameters of a command by groups of options.

    `page=page_options` gives the command the parameters of the function `page_options` in place of its own parameter
    `page`, and passes what `page_options` returns as `page`. The group's parameters keep their names and defaults.
    """

    def decorate(command: Command) -> Command:
        members = {name: _parameters(group) for name, group in groups.items()}
        parameters: list[inspect.Parameter] = []
        for parameter in _parameters(command):
            parameters += members.get(parameter.name, [parameter])

        @functools.wraps(command)
        def call(*arguments: Any, **options: Any) -> None:
            for name, group in groups.items():
                given = {member.name: options.pop(member.name) for member in members[name] if member.name in options}
                options[name] = group(**given)
            command(*arguments, **options)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=_kind(parameter))
        for parameter in inspect.signature(function).parameters.values()
    ]


def _kind(parameter: inspect.Parameter) -> Any:
    # All but the context may follow one with a default.
    return parameter.kind if parameter.name == "ctx" else inspect.Parameter.KEYWORD_ONLY
