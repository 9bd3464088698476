"""Run the web server of the live page."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eatnas_cli.web.access import AccessControl, AccessRules
from eatnas_cli.web.answers import error_answer
from eatnas_cli.web.api import api_routes
from eatnas_cli.web.pages import page_routes
from eatnas_db.database.engine import dispose_kept_engines, kept_engines
from eatnas_db.errors import ConflictError
from eatnas_db.garbage_collection import collect_as_usual
from eatnas_db.settings import Settings

SECURITY_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
COMPRESSED_BYTES: Final = 10_000
"""Answers of at least this many bytes are compressed, for readers on a slow network."""


class _WithSecurityHeaders:
    """An ASGI application that adds `SECURITY_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def build_app(settings: Settings, rules: AccessRules, version: str) -> Starlette:
    """Return the application: the pages, the API and the rules of access."""

    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:80]
        message = (
            f"there is no page {path}; /docs lists the paths of the API" if error.status_code == 404 else error.detail
        )
        if error.status_code == 405:
            message = f"{request.method} is not allowed; this server only reads; use GET"
        answer = error_answer(request.scope, error.status_code, message)
        answer.headers.update(error.headers or {})
        return answer

    def report_fault(request: Request, error: Exception) -> Response:
        what = f"{type(error).__name__}; the server printed the traceback, please report it"
        return error_answer(request.scope, 500, f"this is a fault of eatnas-db: {what}")

    return Starlette(
        routes=[*page_routes(settings, version), *api_routes(settings, version)],
        middleware=[
            Middleware(_WithSecurityHeaders),
            Middleware(AccessControl, rules=rules),
            Middleware(GZipMiddleware, minimum_size=COMPRESSED_BYTES, compresslevel=4),
        ],
        exception_handlers={HTTPException: refuse, Exception: report_fault},
    )


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address.

    Raises `ConflictError` if the address is in use or does not belong to this host.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        # Derive the reason from the errno, because `create_server` adds the address to the text. The number of a
        # `gaierror` is not an errno.
        is_plain = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno) if is_plain and error.errno else error.strerror or str(error)
        raise ConflictError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None


def run_server(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM, and then end the process at once with status 0."""
    collect_as_usual()
    settings: dict[str, Any] = {"access_log": False, "log_level": "warning", "lifespan": "off", "server_header": False}
    with kept_engines(), suppress(KeyboardInterrupt):
        asyncio.run(_Server(uvicorn.Config(app, **settings)).serve(sockets=[listener]))
    _end_process()


class _Server(uvicorn.Server):
    """A server that ends at once. Uvicorn's own shutdown would wait for open pages."""

    def handle_exit(self, _signal: int, _frame: FrameType | None) -> None:
        """End the process on SIGINT and SIGTERM."""
        _end_process()


def _end_process() -> NoReturn:
    dispose_kept_engines()
    sys.stdout.flush()
    sys.stderr.flush()
    # Exit without waiting for threads that run long queries. The threads only read.
    os._exit(0)
