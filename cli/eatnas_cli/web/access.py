"""Decide which requests the server answers, based on their Host header, the site that sends them, and their token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response

from eatnas_cli.web.answers import error_answer
from eatnas_db.errors import EatnasError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MIN_TOKEN_LENGTH: Final = 16
MAX_TOKEN_LENGTH: Final = 256
TOKEN_PARAMETER: Final = "token"  # noqa: S105
OWN_SITE: Final = frozenset({"same-origin", "same-site", "none"})
"""The values of Sec-Fetch-Site for requests from our own pages and for URLs that a person typed."""


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable only from this machine."""
    address = _parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(24)


def require_good_token(token: str) -> None:
    """Raise `EatnasError` for a token of the wrong length, or with characters that a header cannot contain."""
    if not MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH:
        raise EatnasError(
            f"the token has {len(token)} characters; choose one with {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH}"
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise EatnasError("the token may contain only printable ASCII characters, without spaces")


def require_host_name(name: str) -> None:
    """Raise `EatnasError` for a name that is empty or that no Host header can contain."""
    if not name or _host_name(name) != name.lower() or "/" in name or " " in name:
        raise EatnasError(
            f"{name!r} is not a host name; pass --allow-host the name alone, without scheme, port or path, for example "
            "lab.example.org"
        )


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The host names that a Host header may contain, and the token that a request needs (None: no token)."""

    host: str
    port: int
    token: str | None = None
    names: Collection[str] = ()
    cookie: str = field(init=False)

    def __post_init__(self) -> None:
        # All ports of a host share cookies, so the name of the cookie contains the port.
        object.__setattr__(self, "cookie", f"eatnas_{self.port}")

    def allows_host(self, header: str) -> bool:
        """Return whether a Host header names this server.

        Unknown names are refused: another site could map its own name to the address of this server (DNS rebinding) and
        then read the answers. IP addresses are allowed, because no site can use an IP address as its name.
        """
        name = _host_name(header)
        if is_loopback(self.host):
            return is_loopback(name)
        known = {self.host.lower(), "localhost", *(known.lower() for known in self.names)}
        return name in known or _parse_address(name) is not None

    def is_token(self, text: str) -> bool:
        """Return whether `text` is the token. The duration of the comparison does not depend on `text`."""
        return self.token is not None and hmac.compare_digest(_bytes(text), _bytes(self.token))

    @property
    def cookie_value(self) -> str:
        """The value of the cookie that a logged-in browser sends. The token cannot be derived from this value."""
        assert self.token is not None
        return hmac.new(_bytes(self.token), b"eatnas-db cookie", hashlib.sha256).hexdigest()

    def is_logged_in(self, headers: Headers) -> bool:
        """Return whether a request has the token in its header, or has the cookie."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(value.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(_bytes(cookie.value), _bytes(self.cookie_value))


class AccessControl:
    """An ASGI application that passes on only the requests that `AccessRules` allow."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refuse(scope, Headers(scope=scope))
        await (self.app if refusal is None else refusal)(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer that refuses a request, or None if the request is allowed."""
        if not self.rules.allows_host(headers.get("host", "")):
            return error_answer(
                scope,
                421,
                f"unknown host name {headers.get('host', '')[:80]!r} in the request; use the address that the server "
                "printed, or start the server with `--allow-host NAME`",
            )
        is_navigation = headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in OWN_SITE and not is_navigation:
            return error_answer(scope, 403, "another site sent this request; open the page in a tab of its own")
        if self.rules.token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == TOKEN_PARAMETER]
        if given and scope["method"] == "GET":
            return (
                self._log_in(scope, query) if self.rules.is_token(given[0]) else self._ask(scope, "the token is wrong")
            )
        if self.rules.is_logged_in(headers):
            return None
        is_wrong = "authorization" in headers
        return self._ask(scope, "the token is wrong" if is_wrong else "a token is needed")

    def _ask(self, scope: Scope, problem: str) -> Response:
        message = f"{problem}; `eatnas-db serve` printed an address with the token when it started"
        answer = error_answer(scope, 401, message, asks_token=True)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _log_in(self, scope: Scope, query: list[tuple[str, str]]) -> Response:
        """Return a response that stores the cookie and redirects to the same URL without the token."""
        rest = urlencode([(name, value) for name, value in query if name != TOKEN_PARAMETER])
        # A path that begins with two slashes would redirect to another host.
        path = "/" + scope["path"].lstrip("/\\")
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, status_code=303)
        answer.set_cookie(self.rules.cookie, self.rules.cookie_value, httponly=True, samesite="strict", path="/")
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _host_name(header: str) -> str:
    """Return the name in a Host header, without the port and without the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].rstrip(".").lower()


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
