"""The pages that a browser shows, and the parts that they refresh."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from eatnas_cli.command_tools import ArgumentError, list_tools
from eatnas_cli.web.activity import read_activity, read_searches
from eatnas_cli.web.answers import JSON, error_answer, status_of, tagged_answer, tagged_response
from eatnas_cli.web.openapi import describe_api
from eatnas_daemon.search_progress import current_status, is_supervised
from eatnas_db.database.engine import read_connection
from eatnas_db.errors import EatnasError, NotFoundError
from eatnas_db.queries.searches import get_search
from eatnas_db.queries.versions import get_version
from eatnas_db.settings import Settings
from eatnas_report.data import ReportPart, load_report_data
from eatnas_report.live_page import (
    NEEDS_ALSO,
    Fragment,
    part_fragment,
    render_api,
    render_list,
    render_search,
    script_files,
)

CLOCK_SECONDS = 30
"""The utilisation of a search changes with time alone; it is read again after this time."""


def page_routes(settings: Settings, version: str) -> list[Route]:
    """Return the routes of the pages, of their parts and of their scripts."""
    api = render_api(describe_api(list_tools(), version))

    def show_list(_: Request) -> Response:
        return _page(render_list(read_searches(settings), read_activity(settings)))

    def show_search(request: Request) -> Response:
        name = _parameter(request, "name")
        overview = _read_part(settings, name, ReportPart.OVERVIEW)
        return _page(render_search(name, overview, read_activity(settings, name)))

    def show_api(_: Request) -> Response:
        return _page(api)

    def send_searches(request: Request) -> Response:
        return tagged_answer(request, read_searches(settings).to_json())

    def send_activity(request: Request) -> Response:
        return tagged_answer(request, read_activity(settings, request.query_params.get("name")).to_json())

    def send_part(request: Request) -> Response:
        name, part = _parameter(request, "name"), _part(request)
        with read_connection(settings.database_url) as connection:
            search = get_search(connection, name)
            status = current_status(search, is_supervised(settings, connection))
            tag = f"{part}-{get_version(connection, replace(search, status=status))}"
        if part is ReportPart.UTILISATION:
            tag += f"-{int(time.time() // CLOCK_SECONDS)}"
        return tagged_response(request, lambda: _read_part(settings, name, part).to_json(), f"{tag}-{version}", JSON)

    pages = {
        "/": show_list,
        "/search": show_search,
        "/docs": show_api,
        "/live/searches": send_searches,
        "/live/activity": send_activity,
        "/live/search": send_part,
        "/static/{file}": _send_script,
    }
    return [Route(path, _with_errors(answer), methods=["GET"]) for path, answer in pages.items()]


def _with_errors(answer: Callable[[Request], Response]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(answer, request)
        except EatnasError as error:
            field = error.argument if isinstance(error, ArgumentError) else None
            return error_answer(request.scope, status_of(error), str(error), field)

    return endpoint


def _page(html: str) -> Response:
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})


def _parameter(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise ArgumentError(f"{request.url.path} needs the parameter {name}", name)
    return value


def _part(request: Request) -> ReportPart:
    text = _parameter(request, "part")
    if text not in list(ReportPart):
        raise ArgumentError(f"there is no part {text[:80]!r}; the parts are {', '.join(ReportPart)}", "part")
    return ReportPart(text)


def _read_part(settings: Settings, name: str, part: ReportPart) -> Fragment:
    parts = {part, *NEEDS_ALSO.get(part, ())}
    with read_connection(settings.database_url) as connection:
        data = load_report_data(connection, name, time.time(), parts=parts, max_fingerprinted=-1)
        status = current_status(data.search, is_supervised(settings, connection))
    return part_fragment(part, replace(data, search=replace(data.search, status=status)))


def _send_script(request: Request) -> Response:
    file = request.path_params["file"]
    if file not in script_files():
        raise NotFoundError(f"there is no file {file[:80]!r}")
    # The name changes with the content.
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(script_files()[file], media_type="text/javascript", headers=headers)
    return Response(_compressed(file), media_type="text/javascript", headers={**headers, "Content-Encoding": "gzip"})


@cache
def _compressed(file: str) -> bytes:
    return gzip.compress(script_files()[file].encode(), compresslevel=6, mtime=0)
