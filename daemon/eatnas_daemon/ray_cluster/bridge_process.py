"""The daemon's side of the bridge to a Ray cluster: start the bridge, pass pipes to it, and restart it if it dies."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eatnas_daemon.ray_cluster.requests import WorkerNeeds, new_socket_pair, receive_packet, send_packet
from eatnas_daemon.workers.process_tree import kill_process_tree
from eatnas_db.interpreter import python_command

BRIDGE_PROGRAM: Final = "eatnas_daemon.ray_cluster.bridge"
FIRST_RESTART_SECONDS: Final = 1.0
MAX_RESTART_SECONDS: Final = 30.0
SILENT_SECONDS: Final = 60.0
"""A bridge that has reported nothing for this time is killed, and its workers count as lost."""
CONNECT_SECONDS: Final = 180.0
"""The limit that replaces `SILENT_SECONDS` while the bridge connects."""
CLOSE_SECONDS: Final = 8.0
MAX_LOG_BYTES: Final = 10_000_000
"""When a bridge starts, a larger log file is renamed and replaces the file that was renamed before."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """The resources of a node, and the number of workers for which they suffice."""

    cpus: float
    gpus: float
    workers: int


class BridgeProcess:
    """The process that talks to Ray. `problem` is the reason in one line why the cluster is not connected, or None.

    `home` is the folder that all nodes must share. An actor looks for the file `marker` in `home`, to check that its
    node sees the same folder.
    """

    def __init__(
        self,
        address: str,
        needs: WorkerNeeds,
        home: Path,
        marker: Path,
        log_file: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address, self.needs = address, needs
        self._home, self._marker, self._log_file, self._monotonic = home, marker, log_file, monotonic
        self._token = secrets.token_hex(16)
        self.problem: str | None = None
        self.nodes: tuple[ClusterNode, ...] | None = None
        """The living nodes; None without a connection."""
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starts, self._start_after, self._silent = 0, 0.0, False
        self._heard_at = self._polled_at = monotonic()

    @property
    def pid(self) -> int | None:
        """Return the id of the process, or None if no process is running."""
        return None if self._process is None else self._process.pid

    def poll(self) -> None:
        """Read the reports of the bridge, and restart the bridge if it has ended. Never waits."""
        now = self._monotonic()
        # If this process was suspended, do not count the silence against the bridge.
        if now - self._polled_at > SILENT_SECONDS / 2:
            self._heard_at = now
        self._polled_at = now
        if self._read():
            self._heard_at = now
        limit = CONNECT_SECONDS if self.nodes is None else SILENT_SECONDS
        if self._process is not None and now - self._heard_at > limit:
            kill_process_tree(self._process.pid)
            self._silent = True
        if self._process is not None and self._process.poll() is not None:
            self._end(now)
        if self._process is None and now >= self._start_after:
            self._start(now)

    def launch(self, request: dict[str, Any], control: socket.socket, command_fd: int, report_fd: int) -> None:
        """Make the bridge start a worker, and pass it these ends of the worker's pipes.

        Raises `OSError` if there is no bridge.
        """
        if self._control is None:
            raise BrokenPipeError(f"there is no connection to the Ray cluster at {self.address}")
        common = {"home": str(self._home), "marker": str(self._marker), "token": self._token}
        try:
            send_packet(self._control, {**request, **common}, (control.fileno(), command_fd, report_fd))
        except OSError as error:
            raise BrokenPipeError(f"the bridge to the Ray cluster accepts no requests: {error.strerror}") from error

    def close(self) -> None:
        """End the bridge and, with it, its actors."""
        with contextlib.suppress(OSError):
            self._marker.unlink(missing_ok=True)
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                kill_process_tree(self._process.pid)
                self._process.wait()
            self._process = None

    def _read(self) -> bool:
        """Process the packets that have arrived. Return whether any packets had arrived."""
        heard = False
        with contextlib.suppress(BlockingIOError, EOFError):
            while self._control is not None:
                packet, _ = receive_packet(self._control)
                heard = True
                self.problem = packet.get("problem")
                if "nodes" in packet:
                    self.nodes = tuple(ClusterNode(**node) for node in packet["nodes"])
                    self._starts = 0
        return heard

    def _start(self, now: float) -> None:
        self._starts += 1
        own, others = new_socket_pair()
        own.setblocking(False)
        arguments = ["--address", self.address, "--cpus", str(self.needs.cpus), "--gpus", str(self.needs.gpus)]
        command = python_command("-m", BRIDGE_PROGRAM, "--control-fd", str(others.fileno()), *arguments)
        try:
            self._marker.write_text(self._token, encoding="utf-8")
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            _rotate(self._log_file)
            with self._log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(others.fileno(),),
                    # Ctrl-C in the terminal must not end the bridge before the workers have checkpointed.
                    start_new_session=True,
                )
        except OSError as error:
            own.close()
            self.problem = f"the bridge to the Ray cluster cannot be started: {error}"
            self._schedule(now)
            return
        finally:
            others.close()
        self._control, self._heard_at, self._silent = own, now, False

    def _end(self, now: float) -> None:
        """Handle the end of the bridge. All its workers have ended too."""
        assert self._process is not None
        if self._control is not None:
            self._control.close()
        if self.nodes is not None:
            self.problem = f"the connection to the Ray cluster at {self.address} is lost; connecting again"
        elif self._silent:
            self.problem = (
                f"the Ray head at {self.address} has not answered for {CONNECT_SECONDS:g} s; check that --address has "
                "the port of the head, by default 6379"
            )
        elif self.problem is None:
            status = self._process.returncode
            self.problem = f"the bridge to the Ray cluster ended with status {status}; see {self._log_file}"
        self._process, self._control, self.nodes = None, None, None
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        self._start_after = now + min(FIRST_RESTART_SECONDS * 2.0 ** min(self._starts, 10), MAX_RESTART_SECONDS)


def _rotate(log_file: Path) -> None:
    """Rename a log file that is too large. It grows if a bridge that cannot connect is restarted again and again."""
    with contextlib.suppress(FileNotFoundError):
        if log_file.stat().st_size > MAX_LOG_BYTES:
            log_file.replace(log_file.with_name(f"{log_file.name}.1"))
