"""Declare a group of options once, and add the group to commands as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

Command = Callable[..., None]


def takes_options(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Replace keyword parameters of a command with groups of options.

    With `page=page_options`, the parameters of the function `page_options` replace the command's parameter `page`. The
    command gets the result of `page_options` as `page`. The parameters of the group keep their names and defaults.
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
    # All parameters except the context are keyword-only, because they may follow a parameter with a default.
    return parameter.kind if parameter.name == "ctx" else inspect.Parameter.KEYWORD_ONLY
