"""Run several commands in one process, for tests that would mostly wait for interpreters to start."""

from __future__ import annotations

import json
from collections.abc import Sequence

_PROGRAM = """
import contextlib, io, json, sys
from eatnas_cli.app import main

answers = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main(arguments)
        except SystemExit as left:
            assert not left.code, arguments
    answers.append(output.getvalue())
print(json.dumps(answers))
"""


def batch_arguments(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return the interpreter's arguments that run commands; they print the list of outputs as JSON."""
    return ["-c", _PROGRAM, json.dumps(commands)]
