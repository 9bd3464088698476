"""Run commands in forks of a prepared process, because tests would otherwise spend most of their time starting
interpreters.

Each command is a process of its own, with its own working folder, environment and output. The server has already
imported the modules of the commands.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from support.command_client import request_command

CLIENT = Path(__file__).parent / "command_client.py"
WITH_NUMPY = (
    "eatnas_cli.advice",
    "eatnas_db.guidance",
    "eatnas_db.guided_births",
    "eatnas_db.integrity.guided_replay",
    "eatnas_db.scored_births",
    "eatnas_db.source_agreement",
    "eatnas_db.transfer_sources",
)
NOT_IMPORTED = (*WITH_NUMPY, "eatnas_db.testing", "eatnas_migrations.env", "eatnas_migrations.versions")
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "FORCE_COLOR", "TERMINAL_WIDTH", "OMP_", "OPENBLAS_")
"""The prefixes of environment variables that an interpreter, or a module that it imports, reads only once."""


class CommandServer:
    """A server that runs commands to their ends."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._environment = dict(os.environ)

    def write_program(self, folder: Path) -> None:
        """Write the program `eatnas-db`, which runs its command on this server."""
        program = folder / "eatnas-db"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {CLIENT} {self.address} "$@"\n')
        program.chmod(0o755)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `eatnas-db` with these arguments, in a new interpreter if `options` or the environment need one."""
        environment = dict(os.environ if env is None else env)
        if options or self._needs_an_interpreter(environment):
            command = [sys.executable, "-m", "eatnas_cli", *arguments]
            return subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, **options
            )
        with ExitStack() as stack:
            nothing, output, errors = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
            streams = [file.fileno() for file in (nothing, output, errors)]
            status = request_command(self.address, list(arguments), str(cwd), environment, streams)
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(list(arguments), status, output.read(), errors.read())

    def _needs_an_interpreter(self, environment: Mapping[str, str]) -> bool:
        here = self._environment
        changed = {name for name in {*environment, *here} if environment.get(name) != here.get(name)}
        return any(name.startswith(READ_AT_START) for name in changed - {"PYTHONPATH"})


def start_server(user: int) -> str:
    """Start a server that ends soon after the process with this pid; return its address."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    started = subprocess.run(
        [sys.executable, "-P", __file__, str(user)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
        check=True,
    )
    return started.stdout


def main(user: int) -> None:
    """Print the address of a server, which runs in a process of its own until the process with this pid ends."""
    import_commands()
    gc.freeze()
    del sys.path[sys.path.index(str(Path(__file__).parents[1]))]
    # Commands run the exit functions of this process, one of which would delete a `TemporaryDirectory`.
    folder = tempfile.mkdtemp(prefix="commands-")
    with socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder) / "socket")
        listener.bind(address)
        listener.listen(64)
        print(address, end="", flush=True)
        if os.fork() != 0:
            os._exit(0)
        # Close the output, because the starter of the server reads it to the end.
        os.dup2(0, 1)
        serve(listener, psutil.Process(user))
    shutil.rmtree(folder)


def serve(listener: socket.socket, user: psutil.Process) -> None:
    """Run the commands of all connections until a process ends."""
    while user.is_running():
        if not select.select([listener], [], [], 1.0)[0]:
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            answer(connection)
            os._exit(0)
        connection.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def import_commands() -> None:
    """Import the modules that most commands import, but not NumPy, which starts threads and which few commands need."""
    for package in ("eatnas_cli", "eatnas_db", "eatnas_migrations"):
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not module.name.startswith(NOT_IMPORTED) and not module.name.endswith("__main__"):
                import_module(module.name)
                assert "numpy" not in sys.modules, f"{module.name} imports NumPy: add it to WITH_NUMPY"


def answer(connection: socket.socket) -> None:
    """Run the command of a connection in a new process, and send its exit status."""
    message, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    (size, _, message) = message.partition(b"\n")
    while len(message) < int(size):
        if not (part := connection.recv(1 << 16)):
            return  # the test has ended
        message += part
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(run_command(**json.loads(message)))
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(child, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def run_command(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Run a command in this process, which runs nothing else, and return its exit status."""
    from eatnas_cli.__main__ import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    packages = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in packages if path not in sys.path]
    sys.argv = ["eatnas-db", *arguments]
    # The streams of the server cannot be reused: they remember whether the server's own files are seekable.
    sys.stdin = os.fdopen(0)
    sys.stdout = os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace")
    status: int | None = 1
    try:
        main()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        # Wait for threads, as an interpreter does before it ends, so that a command that would hang there also hangs
        # here.
        import_module("threading")._shutdown()
        import_module("atexit")._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return status


if __name__ == "__main__":
    main(int(sys.argv[1]))
