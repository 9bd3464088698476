"""Serve the pages, and the parts that the pages refresh."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from eatnas_cli.command_tools import ArgumentError, list_tools
from eatnas_cli.web.access import TOKEN_PARAMETER
from eatnas_cli.web.activity import read_activity, read_searches
from eatnas_cli.web.answer_cache import AnswerCache, TaggedBody
from eatnas_cli.web.answers import JSON, error_answer, status_of, tagged_answer, tagged_response
from eatnas_cli.web.openapi import describe_api
from eatnas_daemon.search_status import current_status, is_supervised
from eatnas_db.database.engine import read_connection
from eatnas_db.errors import EatnasError, NotFoundError
from eatnas_db.queries.candidate_ids import get_search_name, parse_candidate_id
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.queries.versions import get_version
from eatnas_db.settings import Settings
from eatnas_db.text_encoding import escape_unstorable, is_storable
from eatnas_report.candidate_page import CandidateData, candidate_fragment, load_candidate_data, render_candidate
from eatnas_report.data import ReportData, ReportPart, load_report_data
from eatnas_report.live_page import (
    NEEDS_ALSO,
    Fragment,
    part_fragment,
    render_api,
    render_list,
    render_search,
    script_files,
)
from eatnas_report.quality_preview import PREVIEW_STEPS, preview_quality

Data = TypeVar("Data", ReportData, CandidateData)
CLOCK_SECONDS = 30
"""The seconds after which a search's utilisation is read again, because it changes even while the record does not."""


def page_routes(settings: Settings, version: str) -> list[Route]:
    """Return the routes of the pages, of their parts and of their scripts."""
    pages = _Pages(settings, version)
    answers: dict[str, tuple[Callable[[Request], Response], tuple[str, ...]]] = {
        "/": (pages.show_list, ()),
        "/search": (pages.show_search, ("name",)),
        "/candidate": (pages.show_candidate, ("candidate",)),
        "/docs": (pages.show_api, ()),
        "/live/searches": (pages.send_searches, ()),
        "/live/activity": (pages.send_activity, ("name",)),
        "/live/search": (pages.send_part, ("name", "part")),
        "/live/candidate": (pages.send_candidate, ("candidate",)),
        "/static/{file}": (_send_script, ()),
    }
    return [Route(path, _with_errors(answer, names), methods=["GET"]) for path, (answer, names) in answers.items()]


class _Pages:
    """The pages of a record, and their parts."""

    def __init__(self, settings: Settings, version: str) -> None:
        self._settings = settings
        self._version = version
        self._api = render_api(describe_api(list_tools(), version))
        self._cache = AnswerCache()

    def show_list(self, _: Request) -> Response:
        """Return the page of all searches."""
        return _page(render_list(read_searches(self._settings), read_activity(self._settings)))

    def show_search(self, request: Request) -> Response:
        """Return the page of a search."""
        name = _parameter(request, "name")
        with self._connection() as connection:
            data = self._read_data(connection, name, ReportPart.OVERVIEW)
            steps = list_steps(connection, data.search.id, max_points=PREVIEW_STEPS)
        overview = part_fragment(ReportPart.OVERVIEW, data)
        activity = read_activity(self._settings, name)
        return _page(render_search(data.search, overview, activity, preview_quality(steps)))

    def show_candidate(self, request: Request) -> Response:
        """Return the page of a candidate."""
        with self._connection() as connection:
            data = load_candidate_data(connection, _candidate_id(request))
        return _page(render_candidate(data))

    def show_api(self, _: Request) -> Response:
        """Return the page that lists the paths of the API."""
        return _page(self._api)

    def send_searches(self, request: Request) -> Response:
        """Send the list of searches."""
        return tagged_answer(request, read_searches(self._settings).to_json())

    def send_activity(self, request: Request) -> Response:
        """Send the activity of the slots."""
        name = _parameter(request, "name") if "name" in request.query_params else None
        return tagged_answer(request, read_activity(self._settings, name).to_json())

    def send_part(self, request: Request) -> Response:
        """Send a part of the page of a search."""
        name, part = _parameter(request, "name"), _part(request)
        return self._send_cached(
            request,
            part,
            find=lambda connection: get_search(connection, name),
            load=lambda connection: self._read_data(connection, name, part),
            render=partial(part_fragment, part),
        )

    def send_candidate(self, request: Request) -> Response:
        """Send the changing part of the page of a candidate."""
        candidate = _candidate_id(request)
        return self._send_cached(
            request,
            f"candidate-{candidate}",
            find=lambda connection: get_search(connection, get_search_name(connection, candidate)),
            load=lambda connection: load_candidate_data(connection, candidate),
            render=candidate_fragment,
        )

    def _send_cached(
        self,
        request: Request,
        part: str,
        *,
        find: Callable[[Connection], SearchRecord],
        load: Callable[[Connection], Data],
        render: Callable[[Data], Fragment],
    ) -> Response:
        """Send a part of a search's page, unless the client has the current version. `find` returns the search."""
        with self._connection() as connection:
            tag = self._tag(connection, find(connection), part)

        def build() -> TaggedBody:
            with self._connection() as connection:
                data = load(connection)
                read = self._tag(connection, data.search, part)
            return TaggedBody(read, render(data).to_json())

        return tagged_response(request, lambda: self._cache.read(tag, build), tag, JSON)

    def _connection(self) -> AbstractContextManager[Connection]:
        return read_connection(self._settings.database_url)

    def _read_data(self, connection: Connection, name: str, part: ReportPart) -> ReportData:
        parts = {part, *NEEDS_ALSO.get(part, ())}
        data = load_report_data(connection, name, time.time(), parts=parts, max_fingerprinted=-1)
        return replace(data, search=self._with_status(connection, data.search))

    def _with_status(self, connection: Connection, search: SearchRecord) -> SearchRecord:
        return replace(search, status=current_status(search, is_supervised(self._settings, connection)))

    def _tag(self, connection: Connection, search: SearchRecord, part: str) -> str:
        """Return a string that changes when the part of a search's page, or the version of the program, changes."""
        clock = int(time.time() // CLOCK_SECONDS) if part == ReportPart.UTILISATION else 0
        state = get_version(connection, self._with_status(connection, search))
        return f"{part}-{state}-{clock}-{self._version}"


def _with_errors(answer: Callable[[Request], Response], names: Sequence[str]) -> Callable[[Request], Any]:
    """Return an endpoint that accepts the parameters `names` and answers errors with `error_answer`."""

    async def endpoint(request: Request) -> Response:
        try:
            _require_known(request, names)
            return await run_in_threadpool(answer, request)
        except EatnasError as error:
            field = error.argument if isinstance(error, ArgumentError) else None
            return error_answer(request.scope, status_of(error), str(error), field)

    return endpoint


def _page(html: str) -> Response:
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})


def _require_known(request: Request, names: Sequence[str]) -> None:
    """Raise `ArgumentError` for an unknown or repeated parameter, or for a value that no record can hold."""
    # Ignore the token, so that a URL with a token stays valid when the server no longer requires one.
    given = [item for item in request.query_params.multi_items() if item[0] != TOKEN_PARAMETER]
    for name, text in given:
        if name not in names:
            known = f"it has: {', '.join(names)}" if names else "it has none"
            raise ArgumentError(f"{request.url.path[:80]} has no parameter {name}; {known}", name)
        if not is_storable(text):
            raise ArgumentError(f"{name} is {escape_unstorable(text)[:80]}, which is not valid text", name)
    for name, count in Counter(name for name, _ in given).items():
        if count > 1:
            raise ArgumentError(f"{name} is given twice; {request.url.path} accepts it once", name)


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


def _candidate_id(request: Request) -> int:
    text = _parameter(request, "candidate")
    number = parse_candidate_id(text)
    if number is None:
        raise ArgumentError(f"candidate must be the id of a candidate, a whole number; got {text!r}", "candidate")
    return number


def _send_script(request: Request) -> Response:
    file = request.path_params["file"]
    if file not in script_files():
        raise NotFoundError(f"there is no file {file[:80]!r}")
    # The browser may keep the file forever, because the name changes with the content.
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(script_files()[file], media_type="text/javascript", headers=headers)
    return Response(_compressed(file), media_type="text/javascript", headers={**headers, "Content-Encoding": "gzip"})


@cache
def _compressed(file: str) -> bytes:
    return gzip.compress(script_files()[file].encode(), compresslevel=6, mtime=0)
