"""The official client calls the tools for agents over the real protocol."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from typer.testing import CliRunner

from eatnas_cli.app import app
from eatnas_cli.command_tools import TOOLS, list_tools
from eatnas_cli.query.app import COMMANDS
from eatnas_db.errors import EatnasError
from support.recorded_search import make_record
from support.tool_answers import ANSWERS

if TYPE_CHECKING:
    from mcp import ClientSession

MISTAKES = [
    ("query_best", {"name": "nothing"}, "no search named 'nothing'"),
    ("query_best", {}, "query_best needs the argument name"),
    ("query_best", {"name": "small", "picture": "x.png"}, "has no argument picture"),
    ("query_best", {"name": "small", "top": "many"}, "valid integer"),
    ("query_best", {"name": {"a": 1}}, "must be a string or a number"),
    ("query_compare", {"names": ["small", "small"], "alone": "yes"}, "alone must be true or false, got 'yes'"),
    ("query_sql", {"question": "DELETE FROM searches"}, "SELECT"),
    ("query_lineage", {"name_or_id": "--help"}, "--help"),
    ("query_best", {"name": "x" * 9999}, "xxx…xxx"),
    ("delete_everything", {}, "there is no tool delete_everything"),
]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def with_session(home: Path, url: str, use: Callable[[ClientSession], Any]) -> None:
    """Start the server as an agent does, and call `use` with the connected client."""
    # Only slow tests need these modules, and loading them takes a second.
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    arguments = ["-m", "eatnas_cli", "--home", str(home), "--db", url, "mcp"]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async def main() -> None:
        async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
            await session.initialize()
            await use(session)

    anyio.run(main)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("mcp") / "home"
    made = make_record(home, lambda folder: f"sqlite:///{folder / 'eatnas.db'}")
    return home, made.settings.database_url


def test_every_query_is_a_tool_and_is_tested() -> None:
    names = [tool.name for tool in list_tools()]
    assert {f"query_{name}" for name in COMMANDS} <= set(names)
    assert set(names) == {"_".join(path) for path in TOOLS}
    assert set(ANSWERS) == set(names)


def test_unknown_argument_is_refused() -> None:
    (tool,) = [tool for tool in list_tools() if tool.name == "query_best"]
    with pytest.raises(EatnasError, match="query_best has no argument picture; it has: name"):
        tool.command_line({"picture": "x.png"})


def test_schema_names_types_and_choices() -> None:
    tools = {tool.name: tool.input_schema() for tool in list_tools()}
    assert tools["query_best"]["required"] == ["name"]
    assert tools["query_best"]["properties"]["top"]["type"] == "integer"
    assert tools["query_pareto"]["properties"]["cost"]["enum"]
    assert tools["query_compare"]["properties"]["names"]["type"] == "array"


@pytest.mark.slow
def test_answers_equal_those_of_the_command_line(record: tuple[Path, str]) -> None:
    home, url = record

    async def use(session: ClientSession) -> None:
        assert {tool.name for tool in (await session.list_tools()).tools} == set(ANSWERS)
        for name, (arguments, command) in ANSWERS.items():
            result = await session.call_tool(name, arguments)
            expected = run("--home", str(home), "--db", url, *command, "--format", "json")
            assert not result.is_error, result.content
            assert result.content[0].text == expected, name

    with_session(home, url, use)


@pytest.mark.slow
def test_mistakes_are_errors_and_the_server_continues(record: tuple[Path, str]) -> None:
    home, url = record

    async def use(session: ClientSession) -> None:
        for name, arguments, message in MISTAKES:
            result = await session.call_tool(name, arguments)
            assert result.is_error, (name, arguments)
            (content,) = result.content
            assert message in content.text
            assert "Traceback" not in content.text
        assert not (await session.call_tool("search_list", {})).is_error

    with_session(home, url, use)
