"""Run one command of a command server with the streams of this program: `command_client.py SOCKET ARGUMENT...`.

This program imports few modules, so that it starts fast when a shell runs it as `eatnas-db`.
"""

import json
import os
import socket
import sys
from pathlib import Path


def request_command(
    address: str, arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]
) -> int:
    """Run a command on the server, and return its exit status."""
    message = json.dumps({"arguments": arguments, "folder": folder, "environment": environment}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        head = f"{len(message)}\n".encode()
        socket.send_fds(connection, [head], streams)
        connection.sendall(message)
        return int(connection.recv(64))


if __name__ == "__main__":
    sys.exit(request_command(sys.argv[1], sys.argv[2:], str(Path.cwd()), dict(os.environ), [0, 1, 2]) % 256)
