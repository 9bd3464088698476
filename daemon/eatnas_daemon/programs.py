"""Import a user's own training function in a new process, to check the function before a search uses it."""

from __future__ import annotations

from typing import Final

from eatnas_daemon.training_programs import TrainingTimeoutError, run_training_program
from eatnas_db.errors import DataError, PluginError

PROGRAM: Final = "eatnas_training.programs.check"


IMPORT_SECONDS: Final = 600.0
"""The time limit for an import. On a busy machine, importing torch alone can take a minute."""


def check_program(reference: str, *, timeout: float = IMPORT_SECONDS) -> None:
    """Import a training function and check its parameters. Raises `PluginError` with the reason in one line.

    `timeout` is the limit for the import in seconds.
    """
    try:
        run_training_program(PROGRAM, request={"reference": reference}, timeout=timeout)
    except TrainingTimeoutError:
        raise PluginError(
            f"the import of {reference} did not end within {timeout:g} s; fix the package that defines it"
        ) from None
    except DataError as error:
        raise PluginError(str(error)) from None
