"""Run commands in this process."""

import typer
from typer.testing import CliRunner

from eatnas_db.settings import Settings


def run_command(app: typer.Typer, settings: Settings, *arguments: object) -> str:
    """Run a command of a group and return its output; exceptions propagate to the caller."""
    outer = typer.Typer()

    @outer.callback()
    def set_up(ctx: typer.Context) -> None:
        ctx.obj = settings

    outer.add_typer(app, name="group")
    result = CliRunner().invoke(outer, ["group", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
