"""Write docs/commands.md from the program, and adapt links for MkDocs.

python docs/generate.py    # a test fails if docs/commands.md is out of date
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# The commands

This page lists every command with its arguments and options. `python docs/generate.py` writes it from the program.
[The index](index.md) lists the pages that explain them. `eatnas-db --home` (or `EATNAS_HOME`) sets the home folder, and
`--db` (or `EATNAS_DB_URL`) sets another database. Both options come before the command.
"""


def commands_page() -> str:
    """Return the page that describes every command."""
    from eatnas_cli.app import COMMANDS

    apps = {name: command.app() for name, command in COMMANDS.items()}
    groups = [name for name, app in apps.items() if app.registered_callback or len(app.registered_commands) > 1]
    single = {name: app for name, app in apps.items() if name not in groups}
    parts = [_commands(app, "eatnas-db", "##") for app in single.values()]
    parts += [_group(apps[name], name, COMMANDS[name].help) for name in groups]
    return HEAD + "".join(part for page in parts for part in page)


def _group(app: typer.Typer, name: str, words: str) -> Iterator[str]:
    from eatnas_cli.lazy_group import LazyGroup

    yield f"\n## {name}\n\n{words}\n"
    if isinstance(app.info.cls, type) and issubclass(app.info.cls, LazyGroup):
        for command, lazy in app.info.cls.lazy_commands.items():
            yield from _commands(lazy.app(), f"eatnas-db {name}", "###", only=command)
        return
    own = app.registered_callback
    if own is not None and own.callback is not None:  # the name of the group is also a command
        yield f"\n{_one(f'eatnas-db {name}', own.callback)}"
    yield from _commands(app, f"eatnas-db {name}", "###")


def _commands(app: typer.Typer, path: str, level: str, only: str | None = None) -> Iterator[str]:
    for command in app.registered_commands:
        assert command.callback is not None
        short = command.name or command.callback.__name__.replace("_", "-")
        if only in (None, short):
            name = f"{path} {short}"
            yield f"\n{level} {name.removeprefix('eatnas-db ')}\n\n{_one(name, command.callback)}"


def _one(name: str, function: Callable[..., Any]) -> str:
    # Read the parameters as Typer does: their names, their types with the help, and their defaults.
    types = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function).parameters.values()
    parameters = [(one, types[one.name], _info(types[one.name])) for one in signature if one.name != "ctx"]
    arguments = [one for one in parameters if isinstance(one[2], ArgumentInfo)]
    options = [one for one in parameters if isinstance(one[2], OptionInfo)]
    usage = " ".join([name, *(_argument(*one) for one in arguments), *(["[OPTIONS]"] if options else [])])
    rows = [(f"`{_argument(*one)}`".replace("|", "\\|"), one[2].help) for one in arguments if one[2].help]
    rows += [(_option(*one), _meaning(*one)) for one in options]
    table = ["", "| given | meaning |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)] if rows else []
    return "\n".join([f"`{usage}`", "", inspect.cleandoc(function.__doc__ or ""), *table]) + "\n"


def _info(hint: Any) -> Any:
    return next(one for one in hint.__metadata__ if isinstance(one, ArgumentInfo | OptionInfo))


def _argument(one: inspect.Parameter, hint: Any, info: Any) -> str:
    name = info.metavar or one.name.upper()
    return name if one.default is one.empty or name.startswith("[") else f"[{name}]"


def _option(one: inspect.Parameter, hint: Any, info: Any) -> str:
    # Typer keeps the first name of an annotated option as its default.
    names = [part for part in (info.default, *(info.param_decls or ())) if isinstance(part, str)]
    names = names or [f"--{one.name.replace('_', '-')}"]
    kind = next((part for part in (*get_args(hint.__origin__), hint.__origin__) if isinstance(part, type)), str)
    if issubclass(kind, StrEnum):
        takes = "/".join(kind)
    else:
        takes = info.metavar or {bool: "", int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
    return ", ".join(f"`{f'{name} {takes}'.strip()}`" for name in names)


def _meaning(one: inspect.Parameter, hint: Any, info: Any) -> str:
    words = " ".join((info.help or "").split()).replace("|", "\\|")
    if any(one.default is no_value for no_value in (None, False, one.empty)) or "efault" in words:
        return words
    return f"{words} Default: {one.default}."


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace links to files outside docs/ by their text, because MkDocs has no page for them."""
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?!docs/)[^)]*\)", r"\1", markdown)


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
