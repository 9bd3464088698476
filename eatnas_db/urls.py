"""Parse the URLs of databases and of MLflow stores, and hide their secrets. This module imports only the standard
library.

This module does not use SQLAlchemy: quick commands load SQLAlchemy late, and versions of it decode paths differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from eatnas_db.errors import RecordError

SQLITE_PREFIX: Final = "sqlite:///"
HIDDEN_URL: Final = "(a hidden URL)"
"""The text that replaces a URL that cannot be parsed, since any part of such a URL may belong to a password."""
MAX_PORT: Final = 65535

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{0,5}))?")
_URL_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_SECRET_OPTION: Final = re.compile(r"(?i)(\w*(?:password|passwd|pwd|secret|token)\w*\s*=\s*)('[^']*'|\"[^\"]*\"|\S+)")
_AFTER_URL: Final = ".,:;!)]}>'\"`"
"""Punctuation that may follow a URL in a sentence, and is not part of the URL."""


@dataclass(frozen=True, slots=True)
class UrlParts:
    """The parts of a URL that are not secret; `has_password` is true if the URL has a password before the host."""

    scheme: str
    user: str
    has_password: bool
    host: str
    path: str
    """The path, with its leading slash, without options and fragment."""

    def render(self, password: str | None = None) -> str:
        """Return the URL without its options. If the URL has a password, `password` replaces it."""
        mark = f":{password}" if self.has_password and password is not None else ""
        user = f"{self.user}{mark}@" if self.user or mark else ""
        return f"{self.scheme}://{user}{self.host}{self.path}"


def parse_url(url: str) -> UrlParts | None:
    """Return the parts of a URL, or None if the end of its password is ambiguous."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme) or not rest.isprintable():
        return None
    if scheme.startswith("sqlite") or scheme == "file":
        return None if "@" in rest and not rest.startswith("/") else UrlParts(scheme, "", False, "", rest)
    head, _, _ = rest.partition("?")
    if any(map(str.isspace, rest)):
        return None
    if rest.count("@") > 1 or head.count("@") != rest.count("@"):
        return None
    login, has_login, location = head.rpartition("@")
    user, colon, _ = login.partition(":")
    if has_login and ("#" in login or "/" in user):
        return None
    address, _, path = location.partition("/")
    path = path.partition("#")[0]
    if not all(map(_is_host, address.split(","))):
        return None
    return UrlParts(scheme, user, bool(colon), address, f"/{path}" if "/" in location else "")


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and int(match["port"] or 0) <= MAX_PORT


def is_scheme(text: str) -> bool:
    """Return whether a string can be the scheme of a URL."""
    return _SCHEME.fullmatch(text) is not None


def printable_url(url: str) -> str:
    """Return a URL without its password and its options, or `HIDDEN_URL` if it cannot be parsed."""
    if url.startswith(SQLITE_PREFIX):
        return url
    parts = parse_url(url)
    return HIDDEN_URL if parts is None else parts.render()


def hide_passwords(text: str, *known: str) -> str:
    """Return a string without the passwords and options of the URLs in it.

    `known` are URLs that the text may contain. These URLs are found whole even if they contain a space.
    """
    for url in known:
        text = text.replace(url, _mask(url)) if "://" in url else text
    return _SECRET_OPTION.sub(r"\1***", _URL_IN_TEXT.sub(_mask_found, text))


def _mask_found(found: re.Match[str]) -> str:
    url = found[0].rstrip(_AFTER_URL)
    return _mask(url) + found[0][len(url) :]


def _mask(url: str) -> str:
    if url.startswith(SQLITE_PREFIX):
        return url
    parts = parse_url(url)
    return HIDDEN_URL if parts is None else parts.render("***")


def require_parsable_url(url: str, name: str) -> None:
    """Raise `RecordError` if the end of a URL's password is ambiguous.

    `name` says in the message where the URL comes from.
    """
    if parse_url(url) is None and not url.startswith(SQLITE_PREFIX):
        raise RecordError(
            f"{name} cannot be parsed and is not shown, because it may hold a password; expected "
            "SCHEME://USER:PASSWORD@HOST:PORT/NAME; in a user name or a password, write @ as %40, / as %2F, "
            "? as %3F, # as %23, % as %25 and a space as %20"
        )


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite file."""
    path = str(file)
    for sign in "%?#":
        path = path.replace(sign, f"%{ord(sign):X}")
    return SQLITE_PREFIX + path


def mlflow_store_url(file: Path) -> str:
    """Return the URL of an SQLite file for MLflow, which creates the folder of the URL's path without decoding it.

    If the path has to be encoded, its slashes are encoded too, so that MLflow finds no folder to create.
    """
    url = sqlite_url(file)
    return url if url == SQLITE_PREFIX + str(file) else SQLITE_PREFIX + quote(str(file), safe=" ")


def sqlite_file(url: str) -> Path | None:
    """Return the file that the URL of an SQLite database names, without its options; None for another URL."""
    if not url.startswith(SQLITE_PREFIX):
        return None
    return expand_home(Path(unquote(url[len(SQLITE_PREFIX) :].partition("?")[0])))


def expand_home(path: Path) -> Path:
    """Return a path with a leading `~` or `~USER` replaced by the home folder of the user.

    A path whose user does not exist stays unchanged.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path
