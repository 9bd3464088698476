"""Build the answers of the server: JSON with an ETag, and errors as JSON or as a page."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from eatnas_db.errors import ConflictError, DamagedRecordError, EatnasError, NotFoundError, RecordError
from eatnas_protocol.long_texts import shorten_middle

if TYPE_CHECKING:
    from starlette.types import Scope

JSON: Final = "application/json"
MAX_ECHO_CHARACTERS: Final = 80
"""The length to which an error message shortens the parts of the request that it quotes."""
MAX_MESSAGE_CHARACTERS: Final = 1000
RETRY_SECONDS: Final = 5
STATUS_TITLES: Final = {
    400: "Wrong request",
    401: "Token needed",
    403: "Not allowed",
    404: "Not found",
    405: "Not allowed",
    409: "Not possible now",
    421: "Unknown host",
    422: "Wrong argument",
    503: "The record cannot be read",
}


def tagged_answer(request: Request, body: str, media_type: str = JSON) -> Response:
    """Return `body` with its digest as ETag, or 304 without a body if the client already has it."""
    return tagged_response(request, lambda: body, hashlib.sha256(body.encode()).hexdigest()[:32], media_type)


def tagged_response(request: Request, build: Any, tag: str, media_type: str = JSON) -> Response:
    """Return the answer of `build`. Return 304 without calling `build` if the client already has the version `tag`."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if headers["ETag"] in known:
        return Response(status_code=304, headers=headers)
    return Response(build(), media_type=media_type, headers=headers)


def status_of(error: EatnasError) -> int:
    """Return the HTTP status for an error."""
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, RecordError | DamagedRecordError):
        return 503
    return 409 if isinstance(error, ConflictError) else 422


def error_answer(
    scope: Scope, status: int, message: str, field: str | None = None, *, asks_token: bool = False
) -> Response:
    """Return a one-line error, as JSON for paths below `/api` and `/live`, and as a page for other paths."""
    headers = {"Cache-Control": "no-store"}
    message, field = shorten_echoes(scope, message), field and shorten_middle(field, MAX_ECHO_CHARACTERS)
    if scope["path"].startswith(("/api", "/live", "/openapi.json")):
        error = {"status": status, "message": message, "field": field}
        return JSONResponse({"error": error}, status, headers=headers)
    from eatnas_report.live_page import render_error

    title = STATUS_TITLES.get(status, "Error")
    if status == 503:  # the browser repeats the request until the record can be read
        headers["Refresh"] = str(RETRY_SECONDS)
        message = f"{message}. This page tries again by itself."
    return HTMLResponse(render_error(title, message, asks_token=asks_token), status, headers=headers)


def shorten_echoes(scope: Scope, message: str) -> str:
    """Return a message as one line of limited length, with long quotations from the request shortened."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    long = {text for parameter in query for text in parameter if len(text) > MAX_ECHO_CHARACTERS}
    for text in sorted(long, key=len, reverse=True):
        for form in (text, repr(text)[1:-1]):
            message = message.replace(form, shorten_middle(form, MAX_ECHO_CHARACTERS))
    return shorten_middle(" ".join(message.split()), MAX_MESSAGE_CHARACTERS)
