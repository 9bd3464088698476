"""The jinja2 environment for the templates of this package."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eatnas_report.formats import format_time

_ZERO_WIDTH_SPACE: Final = "\u200b"
_KEPT: Final = ("\n", _ZERO_WIDTH_SPACE)
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def render_template(name: str, **values: Any) -> str:
    """Render a template of this package. Escape the values, and replace their unprintable characters."""
    return _environment().get_template(name).render(**values)


def read_template(name: str) -> str:
    """Return the content of a file in the template folder, for example a script."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("eatnas_report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_replace_unprintable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["time"] = format_time
    environment.filters["marked"] = _mark_code
    return environment


def _mark_code(text: str) -> Markup:
    """Return a sentence as HTML in which text in backquotes, such as a command, becomes a `code` element."""
    escaped = str(escape(_replace_unprintable(text)))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escaped))  # noqa: S704


def _replace_unprintable(value: Any) -> Any:
    # Names and error messages come from users and programs, and may contain control characters.
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(sign if sign.isprintable() or sign in _KEPT else _REPLACEMENT for sign in value)
