"""The pages that a browser shows."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from eatnas_cli.command_tools import list_tools
from eatnas_cli.web.openapi import describe_api
from eatnas_db.settings import Settings
from eatnas_report.live_page import render_api


def page_routes(_settings: Settings, version: str) -> list[Route]:
    """Return the routes of the pages."""
    api = render_api(describe_api(list_tools(), version))

    def show_api(_: Request) -> Response:
        return HTMLResponse(api, headers={"Cache-Control": "no-cache"})

    return [Route("/docs", show_api, methods=["GET"])]
