"""`python -m eatnas_training.programs.check`: import a training program, and check its arguments.

Reads `{"reference": "module:name"}` as JSON from stdin, and prints `{}`. After an error, prints one line to stderr and
exits with status 1.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import Any

from eatnas_db.errors import PluginError
from eatnas_db.plugins import Plugin


def check(reference: str) -> None:
    """Raise `PluginError` unless `reference` can be called as `train(network, task, recipe, report)`."""
    program: Any = Plugin(reference, reference).load()
    if not callable(program):
        raise PluginError(f"{reference} is not a function; write a function train(network, task, recipe, report)")
    if inspect.iscoroutinefunction(program) or inspect.isgeneratorfunction(program):
        raise PluginError(f"{reference} is a generator or a coroutine; write a function without yield and async")
    try:
        inspect.signature(program).bind("network", "task", "recipe", "report")
    except TypeError as error:
        raise PluginError(
            f"{reference} cannot be called as train(network, task, recipe, report): {error}; correct its parameters"
        ) from None
    except ValueError:  # callables of compiled modules may have no signature
        pass


def main() -> None:
    """Answer one request."""
    reference = json.load(sys.stdin)["reference"]
    answer = os.dup(1)
    os.dup2(2, 1)  # keeps the module's output out of the answer
    try:
        check(reference)
    except PluginError as error:
        sys.exit(str(error))
    os.write(answer, b"{}\n")


if __name__ == "__main__":
    main()
