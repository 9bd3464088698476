"""`mcp`: serve the queries as tools over stdin and stdout, according to the Model Context Protocol.

A tool runs the command of the same name with `--format json` and returns its output. All tools are read-only.
"""

from __future__ import annotations

from typing import Final

import typer

from eatnas_cli.command_tools import list_tools, root_command, run_tool
from eatnas_cli.lazy_group import new_app
from eatnas_db.database.engine import kept_engines
from eatnas_db.distributions import WHOLE, installed_versions, require_module
from eatnas_db.errors import EatnasError
from eatnas_db.garbage_collection import collect_as_usual
from eatnas_db.settings import Settings
from eatnas_protocol.long_texts import shorten_words

INSTRUCTIONS: Final = (
    "The record of neural architecture searches: candidates, their lineage, scores and failures. Begin with "
    "search_list. All tools are read-only."
)

app = new_app()


@app.command()
def mcp(ctx: typer.Context) -> None:
    """Serve the queries to an agent over stdin and stdout (Model Context Protocol); the agent starts this command."""
    require_module("mcp")
    import anyio

    collect_as_usual()
    with kept_engines():
        anyio.run(_serve, ctx.obj)


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
    root = root_command()
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
            text, failed = run_tool(root, settings, tools[call.name], call.arguments or {}), False
        except EatnasError as error:
            text, failed = shorten_words(str(error)), True
        return CallToolResult(content=[TextContent(text=text)], is_error=failed)

    number = next(iter(installed_versions().values()), "unknown")
    server = Server(
        WHOLE, version=number, instructions=INSTRUCTIONS, on_list_tools=on_list_tools, on_call_tool=on_call_tool
    )
    async with stdio_server() as (requests, responses):
        await server.run(requests, responses, server.create_initialization_options())
