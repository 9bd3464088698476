"""Describe the API as OpenAPI 3.1, from the parameters of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eatnas_cli.command_tools import CommandTool
from eatnas_cli.web.answer_schemas import describe_answer, describe_rows
from eatnas_cli.web.answers import JSON

OPENAPI: Final = "3.1.0"
ERRORS: Final = {
    "401": "The token is missing or wrong.",
    "404": "The record has no search or candidate of this name or id.",
    "409": "The current state of the record does not allow an answer.",
    "422": "An argument is unknown, missing or wrong; `field` names it.",
    "503": "The record cannot be read.",
}


def path_of(tool: CommandTool) -> str:
    """Return the path of a tool, for example `/api/query/best`."""
    return f"/api/{'/'.join(tool.path)}"


def describe_api(tools: Sequence[CommandTool], version: str) -> dict[str, Any]:
    """Return the description of the API as JSON values."""
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "eatnas-db",
            "version": version,
            "description": "The record of neural architecture searches, read-only. Each path answers like the command "
            "of the same name with `--format json`. An infinite number is the string `inf` or `-inf`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path_of(tool): {"get": _describe_tool(tool)} for tool in tools},
        "components": {
            "schemas": {"Error": _ERROR, **describe_rows()},
            "responses": {
                f"Error{status}": {
                    "description": text,
                    "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for status, text in ERRORS.items()
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["status", "message", "field"],
            "properties": {
                "status": {"type": "integer"},
                "message": {"type": "string", "description": "One line: what happened, and what to do."},
                "field": {"type": ["string", "null"], "description": "The argument that is wrong, if it is known."},
            },
        }
    },
}


def _describe_tool(tool: CommandTool) -> dict[str, Any]:
    schema = tool.input_schema()
    return {
        "operationId": tool.name,
        "summary": tool.help.partition("\n")[0],
        "tags": [tool.path[0]],
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": name in schema["required"],
                **({"description": described["description"]} if "description" in described else {}),
                "schema": {key: value for key, value in described.items() if key != "description"},
                **({"explode": True} if described["type"] == "array" else {}),
            }
            for name, described in schema["properties"].items()
        ],
        "responses": {
            "200": {
                "description": f"What `eatnas-db {' '.join(tool.path)} --format json` prints.",
                "headers": {"ETag": {"schema": {"type": "string"}, "description": "The version of the answer."}},
                "content": _describe_content(tool),
            },
            "304": {"description": "The answer has not changed: its ETag equals the If-None-Match of the request."},
            **{status: {"$ref": f"#/components/responses/Error{status}"} for status in ERRORS},
        },
    }


def _describe_content(tool: CommandTool) -> dict[str, Any]:
    schema = describe_answer(tool.name)
    return {JSON: {"schema": {"type": "array", "items": schema} if tool.is_table else schema}}
