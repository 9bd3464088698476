"""The entry point of `eatnas-db` and of `python -m eatnas_cli`."""

import gc
import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line on the program's arguments.

    Almost all objects of a quick command belong to modules and live until the end. Python's search for garbage among
    them would take a third of the command's time, most of it when the program exits. A command that may run for hours
    calls `collect_as_usual`.
    """
    _open_closed_streams()
    from eatnas_db.garbage_collection import defer_collection

    defer_collection()
    from eatnas_cli.app import main as run_command  # after the line above: loads most modules

    try:
        run_command()
    finally:
        gc.freeze()


def _open_closed_streams() -> None:
    """Open the null device in place of each standard stream that the caller closed.

    Otherwise, the next opened file, such as the database, would take the descriptor of the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


if __name__ == "__main__":
    # `-m` puts the working folder first on `sys.path`, so a user's own `random.py` there would replace Python's.
    if not sys.flags.safe_path and Path(sys.path[0]) not in Path(__file__).parents:
        del sys.path[0]
    main()
