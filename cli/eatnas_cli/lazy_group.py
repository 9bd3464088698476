"""A command group that imports the module of a command only when that command is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from eatnas_cli.direct_conversion import convert_directly


def new_app(**settings: Any) -> typer.Typer:
    """Return an empty Typer app with the settings that all commands share."""
    # Markup and pretty exceptions load rich, which takes longer than a quick query.
    defaults: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
    return typer.Typer(**{"cls": FullHelpGroup, **defaults, **settings})


class FullHelpGroup(TyperGroup):
    """A group whose help shows the first paragraph about each command. Typer would cut the paragraph to one line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the commands and their help."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
            )


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command, or a group of commands, that a module defines as `app`.

    `help`: the whole help of a group, or the first line of the help of a single command.
    """

    module: str
    help: str

    def app(self) -> typer.Typer:
        """Import the module and return its app."""
        app: typer.Typer = import_module(self.module).app
        return app

    def load(self, name: str) -> TyperCommand | TyperGroup:
        """Import the module and return its command, or its command `name` if the module defines several commands."""
        command = get_command(self.app())
        assert isinstance(command, TyperCommand | TyperGroup)
        if isinstance(command, TyperGroup):
            member = command.commands.get(name)
            if isinstance(member, TyperCommand):
                command = member
            else:
                command.help = self.help
        convert_directly(command)
        return command


class LazyGroup(TyperGroup):
    """A group whose commands are listed in `lazy_commands`. The group's `--help` imports none of these commands."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        convert_directly(self)
        self.commands: Any = _LoadedOnAccess(self.lazy_commands)

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Convert the options that Typer has added after `__init__`, and return the context of a call."""
        convert_directly(self)
        return super().make_context(*arguments, **settings)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of `lazy_commands`."""
        return list(self.lazy_commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the commands and their help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.lazy_commands.items()])


class _LoadedOnAccess(Mapping[str, TyperCommand | TyperGroup]):
    """The commands of a lazy group, each loaded when it is looked up."""

    def __init__(self, commands: Mapping[str, LazyCommand]) -> None:
        self._commands = commands

    def __getitem__(self, name: str) -> TyperCommand | TyperGroup:
        return self._commands[name].load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)
