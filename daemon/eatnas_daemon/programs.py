"""Check a training of the user's own before a search uses it. Its module is imported in a process of its own."""

from __future__ import annotations

from typing import Final

from eatnas_daemon.training_programs import run_training_program
from eatnas_db.errors import DataError, PluginError

PROGRAM: Final = "eatnas_training.programs.check"


def check_program(reference: str) -> None:
    """Import a program and check its arguments. Raises `PluginError` with the reason in one line."""
    try:
        run_training_program(PROGRAM, request={"reference": reference})
    except DataError as error:
        raise PluginError(str(error)) from None
