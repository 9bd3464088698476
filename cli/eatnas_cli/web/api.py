"""Serve the queries as JSON at `/api/…`. Each path answers like the command of the same name with `--format json`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typer.core import TyperArgument, TyperGroup

from eatnas_cli.command_tools import ArgumentError, CommandTool, list_tools, root_command, run_tool
from eatnas_cli.web.answers import error_answer, status_of, tagged_answer
from eatnas_cli.web.openapi import describe_api, path_of
from eatnas_db.errors import ConflictError, EatnasError, NotFoundError
from eatnas_db.settings import Settings


def api_routes(settings: Settings, version: str) -> list[Route]:
    """Return a route for each tool, and a route for the OpenAPI description of all tools."""
    root, tools = root_command(), list_tools()
    description = describe_api(tools, version)

    def describe(_: Request) -> Response:
        return JSONResponse(description, headers={"Cache-Control": "no-cache"})

    routes = [Route(path_of(tool), _endpoint(root, settings, tool), methods=["GET"]) for tool in tools]
    return [*routes, Route("/openapi.json", describe, methods=["GET"])]


def _endpoint(root: TyperGroup, settings: Settings, tool: CommandTool) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        arguments: Mapping[str, Any] = {}
        try:
            arguments = read_arguments(tool, request.query_params.multi_items())
            text = await run_in_threadpool(run_tool, root, settings, tool, arguments)
        except EatnasError as error:
            field = _argument_of(error, tool, arguments)
            status = 422 if field is not None and isinstance(error, ConflictError) else status_of(error)
            return error_answer(request.scope, status, str(error), field)
        return tagged_answer(request, text)

    return answer


def read_arguments(tool: CommandTool, items: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the parameters of a URL as the arguments of a tool. Raises `ArgumentError` for a repeated parameter."""
    arguments: dict[str, Any] = {}
    for name, text in items:
        if name in tool.parameters and tool.is_list(name):
            arguments.setdefault(name, []).append(text)
        elif name in arguments:
            raise ArgumentError(f"{name} is given twice; {tool.name} accepts it once", name)
        else:
            arguments[name] = text
    return arguments


def _argument_of(error: EatnasError, tool: CommandTool, arguments: Mapping[str, Any]) -> str | None:
    """Return the argument that an error is about, if the error or its message names it."""
    if isinstance(error, ArgumentError):
        return error.argument
    if not isinstance(error, ConflictError | NotFoundError):
        return None
    message = str(error)
    options = [name for name, parameter in tool.parameters.items() if not isinstance(parameter, TyperArgument)]
    # Check the options first, because most messages also name the search.
    given = [name for name in options if name in arguments]
    for name in given:
        if tool.parameters[name].opts[0] in message or any(
            quoted in message for value in _values(arguments[name]) for quoted in _quotations(value)
        ):
            return name
    if isinstance(error, NotFoundError):
        return next((name for name in tool.parameters if name in arguments and name not in options), None)
    return next((name for name in tool.parameters if name == "question"), None)


def _values(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _quotations(value: str) -> list[str]:
    """Return the strings with which messages quote a value: the whole value and, for a condition, its column."""
    column = re.match(r"-?(\w+)", value)
    return [repr(value), *([] if column is None else [f"column {column[1]!r}"])]
