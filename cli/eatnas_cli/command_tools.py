"""Offer the read-only commands as tools.

Each tool has a JSON schema of its arguments. A tool runs the command of the same name with `--format json` and returns
the JSON output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, get_args, get_origin

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from eatnas_cli.captured_output import captured_output
from eatnas_cli.query.app import COMMANDS as QUERIES
from eatnas_db.distributions import explain_missing_module
from eatnas_db.errors import EatnasError, describe_os_error
from eatnas_db.settings import Settings
from eatnas_db.text_encoding import escape_unstorable, is_storable
from eatnas_protocol.long_texts import shorten_words

TOOLS: Final = (
    *(("query", name) for name in QUERIES),
    *(("search", "list"), ("search", "show"), ("candidate", "show"), ("daemon", "status"), ("space", "show")),
)
"""The commands that become tools."""
LEFT_OUT: Final = frozenset({"columns", "curve", "format", "over", "picture", "watch", "wide"})
"""Parameters that tools leave out: they change the look of an answer or write files."""
ONE_OBJECT: Final = frozenset(
    {
        ("query", "utilisation"),
        ("search", "show"),
        ("candidate", "show"),
        ("daemon", "status"),
    }
)
"""Commands that answer with one object instead of a list."""
JSON_TYPES: Final = {int: "integer", float: "number", bool: "boolean"}

Parameter = TyperOption | TyperArgument


class ArgumentError(EatnasError):
    """An argument of a tool is unknown, missing or wrong. `argument` is its name, or None if the name is not known."""

    def __init__(self, message: str, argument: str | None) -> None:
        super().__init__(message)
        self.argument = argument


@dataclass(frozen=True, slots=True)
class CommandTool:
    """A command that is offered as a tool."""

    path: tuple[str, ...]
    help: str
    parameters: Mapping[str, Parameter]

    @property
    def name(self) -> str:
        """The name of the tool, for example `query_best`."""
        return "_".join(self.path)

    @property
    def is_table(self) -> bool:
        """Whether the answer is a list of rows; otherwise it is one object."""
        return self.path not in ONE_OBJECT

    def is_list(self, name: str) -> bool:
        """Return whether an argument may have several values."""
        return _is_list(self.parameters[name])

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments."""
        return {
            "type": "object",
            "properties": {name: _describe(parameter) for name, parameter in self.parameters.items()},
            "required": [name for name, parameter in self.parameters.items() if parameter.required],
            "additionalProperties": False,
        }

    def command_line(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the command-line arguments that run the tool. Raises `ArgumentError` for an unknown, missing or wrong
        argument.
        """
        unknown = sorted(set(arguments) - set(self.parameters))
        if unknown:
            known = f"it has: {', '.join(self.parameters)}" if self.parameters else "it has none"
            raise ArgumentError(f"{self.name} has no argument {unknown[0]}; {known}", unknown[0])
        missing = [name for name, parameter in self.parameters.items() if parameter.required and name not in arguments]
        if missing:
            raise ArgumentError(f"{self.name} needs the argument {missing[0]}", missing[0])
        options: list[str] = []
        texts: list[str] = []
        for name, parameter in self.parameters.items():
            values = _texts(name, parameter, arguments.get(name))
            if isinstance(parameter, TyperArgument):
                texts += values
            elif _annotation(parameter) is bool:
                options += [parameter.opts[0] for value in values if _is_true(name, value)]
            else:
                options += [f"{parameter.opts[0]}={value}" for value in values]
        return [*self.path, *options, "--format=json", "--", *texts]


def list_tools() -> list[CommandTool]:
    """Return the tools, in the order of `TOOLS`."""
    return [_tool(path) for path in TOOLS]


def run_tool(root: TyperGroup, settings: Settings, tool: CommandTool, arguments: Mapping[str, Any]) -> str:
    """Run the command of a tool and return its output. Raises `EatnasError` with a one-line message for any mistake."""
    line = tool.command_line(arguments)
    where = ["--home", str(settings.home), "--db", settings.database_url]
    try:
        with captured_output() as written:
            root.main([*where, *line], prog_name="eatnas-db", standalone_mode=False)
    except ModuleNotFoundError as error:
        raise explain_missing_module(error) or error from error
    except OSError as error:
        raise EatnasError(describe_os_error(error)) from None
    except SystemExit as ended:
        raise EatnasError(f"{' '.join(tool.path)} ended with status {ended.code}; check the arguments") from None
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line
            parameter = getattr(error, "param", None)
            raise ArgumentError(
                shorten_words(str(error.format_message())), None if parameter is None else parameter.name
            ) from None
        raise
    return written.getvalue().decode()


def root_command() -> TyperGroup:
    """Return the root command, which contains all other commands."""
    from eatnas_cli.app import app as root_app  # imported here, because `app` imports this module

    root = get_command(root_app)
    assert isinstance(root, TyperGroup)
    return root


def _tool(path: Sequence[str]) -> CommandTool:
    command: Any = root_command()
    for part in path:
        command = command.commands[part]
    assert isinstance(command, TyperCommand)
    parameters = {
        parameter.name: parameter
        for parameter in command.params
        if isinstance(parameter, Parameter) and parameter.name is not None and parameter.name not in LEFT_OUT
    }
    return CommandTool(tuple(path), command.help or "", parameters)


def _annotation(parameter: Parameter) -> Any:
    annotation: Any = parameter.type_descriptor.annotation
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


def _is_list(parameter: Parameter) -> bool:
    return bool(parameter.multiple or parameter.nargs == -1)


def _describe(parameter: Parameter) -> dict[str, Any]:
    annotation = _annotation(parameter)
    described: dict[str, Any] = {"type": JSON_TYPES.get(annotation, "string")}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        described["enum"] = [member.value for member in annotation]
    if _is_list(parameter):
        described = {"type": "array", "items": described}
    if parameter.help:
        described["description"] = parameter.help
    return described


def _texts(name: str, parameter: Parameter, value: Any) -> list[str]:
    if value is None:
        return []
    values = value if _is_list(parameter) and isinstance(value, list) else [value]
    return [text for item in values for text in _text(name, item)]


def _text(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str | int | float):
        raise ArgumentError(f"{name} must be a string or a number, got {json.dumps(value)[:80]}", name)
    text = value if isinstance(value, str) else json.dumps(value)
    if not is_storable(text):
        raise ArgumentError(f"{name} is {escape_unstorable(text)[:80]}, which is not valid text", name)
    yield text


def _is_true(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ArgumentError(f"{name} must be true or false, got {text[:80]!r}", name)
    return text == "true"
