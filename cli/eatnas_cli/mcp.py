"""`mcp`: offer the queries to an agent, as tools of a Model Context Protocol server on stdin and stdout.

A tool runs the command of the same name with `--format json`, so its answer is the command's. All tools only read.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from eatnas_cli.lazy_group import new_app
from eatnas_cli.query.app import COMMANDS as QUERIES
from eatnas_db.distributions import WHOLE, explain_missing_module, installed_versions, require_module
from eatnas_db.errors import EatnasError, describe_os_error
from eatnas_db.settings import Settings
from eatnas_db.text_encoding import escape_unstorable, is_storable

TOOLS: Final = (
    *(("query", name) for name in QUERIES),
    *(("search", "list"), ("search", "show"), ("candidate", "show"), ("daemon", "status"), ("space", "show")),
)
"""The commands that become tools."""
LEFT_OUT: Final = frozenset({"columns", "curve", "format", "over", "picture", "watch", "wide"})
"""Parameters that change how an answer looks, or that write files."""
JSON_TYPES: Final = {int: "integer", float: "number", bool: "boolean"}
INSTRUCTIONS: Final = (
    "The record of neural architecture searches: candidates, their lineage, scores and failures. Begin with "
    "search_list. All tools only read."
)

app = new_app()

Parameter = TyperOption | TyperArgument


@dataclass(frozen=True, slots=True)
class CommandTool:
    """A command of the command line, as a tool."""

    path: tuple[str, ...]
    help: str
    parameters: Mapping[str, Parameter]

    @property
    def name(self) -> str:
        """The name of the tool, for example `query_best`."""
        return "_".join(self.path)

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments."""
        return {
            "type": "object",
            "properties": {name: _describe(parameter) for name, parameter in self.parameters.items()},
            "required": [name for name, parameter in self.parameters.items() if parameter.required],
            "additionalProperties": False,
        }

    def command_line(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the arguments of the command. Raises `EatnasError` for an unknown, missing or wrong one."""
        unknown = sorted(set(arguments) - set(self.parameters))
        if unknown:
            raise EatnasError(f"{self.name} has no argument {unknown[0]}; it has: {', '.join(self.parameters)}")
        missing = [name for name, parameter in self.parameters.items() if parameter.required and name not in arguments]
        if missing:
            raise EatnasError(f"{self.name} needs the argument {missing[0]}")
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


@app.command()
def mcp(ctx: typer.Context) -> None:
    """Serve the queries to an agent over stdin and stdout (Model Context Protocol); the agent starts this command."""
    require_module("mcp")
    import anyio

    anyio.run(_serve, ctx.obj)


def list_tools() -> list[CommandTool]:
    """Return the tools, in the order of `TOOLS`."""
    return [_tool(path) for path in TOOLS]


def answer(root: TyperGroup, settings: Settings, tool: CommandTool, arguments: Mapping[str, Any]) -> str:
    """Run the command of a tool and return what it prints. Raises `EatnasError` with one line for every mistake."""
    line = tool.command_line(arguments)
    where = ["--home", str(settings.home), "--db", settings.database_url]
    written = io.BytesIO()
    output = io.TextIOWrapper(written, encoding="utf-8", write_through=True)  # commands look at the encoding
    try:
        with contextlib.redirect_stdout(output):
            root.main([*where, *line], prog_name="eatnas-db", standalone_mode=False)
    except ModuleNotFoundError as error:
        raise explain_missing_module(error) or error from error
    except OSError as error:
        raise EatnasError(describe_os_error(error)) from None
    except SystemExit as ended:
        raise EatnasError(f"{' '.join(tool.path)} ended with status {ended.code}; check the arguments") from None
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line
            raise EatnasError(str(error.format_message())) from None
        raise
    return written.getvalue().decode()


async def _serve(settings: Settings) -> None:
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server
    from mcp_types import (
        CallToolRequestParams,
        CallToolResult,
        ListToolsResult,
        TextContent,
        Tool,
        ToolAnnotations,
    )

    tools = {tool.name: tool for tool in list_tools()}
    root = _root()
    read_only = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)

    async def on_list_tools(_: object, __: object) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(name=tool.name, description=tool.help, input_schema=tool.input_schema(), annotations=read_only)
                for tool in tools.values()
            ]
        )

    async def on_call_tool(_: object, call: CallToolRequestParams) -> CallToolResult:
        try:
            if call.name not in tools:
                raise EatnasError(f"there is no tool {call.name}; the tools are {', '.join(tools)}")
            text, failed = answer(root, settings, tools[call.name], call.arguments or {}), False
        except EatnasError as error:
            text, failed = str(error), True
        return CallToolResult(content=[TextContent(text=text)], is_error=failed)

    number = next(iter(installed_versions().values()), "unknown")
    server = Server(
        WHOLE, version=number, instructions=INSTRUCTIONS, on_list_tools=on_list_tools, on_call_tool=on_call_tool
    )
    async with stdio_server() as (requests, responses):
        await server.run(requests, responses, server.create_initialization_options())


def _root() -> TyperGroup:
    from eatnas_cli.app import app as root_app  # it imports this module

    root = get_command(root_app)
    assert isinstance(root, TyperGroup)
    return root


def _tool(path: Sequence[str]) -> CommandTool:
    command: Any = _root()
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
        raise EatnasError(f"{name} must be a text or a number, got {json.dumps(value)[:80]}")
    text = value if isinstance(value, str) else json.dumps(value)
    if not is_storable(text):
        raise EatnasError(f"{name} is {escape_unstorable(text)[:80]}, which is not valid text")
    yield text


def _is_true(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise EatnasError(f"{name} must be true or false, got {text[:80]}")
    return text == "true"
