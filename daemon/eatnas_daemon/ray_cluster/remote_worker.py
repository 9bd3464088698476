"""The actor that holds one worker process, and the pipes to it, on a node of a Ray cluster.

Ray pickles this module by value, so that its code is always the daemon's own. The actor imports only the standard
library until it has compared the package versions on the node with the daemon's versions.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 16
EXIT_SECONDS = 5.0
DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])"
)
"""A program that replaces itself with a command. The kernel kills the command when the thread that started it ends."""


class RemoteWorker:
    """One worker process. Methods may run in different threads.

    Call `start` before all other methods except `locate`.
    """

    def __init__(self) -> None:
        self._node = socket.gethostname()
        self._process: subprocess.Popen[bytes] | None = None
        self._command_fd = self._report_fd = -1
        self._monitor: Any = None
        self._launched = threading.Event()
        self._error: str | None = None

    def locate(self) -> str:
        """Return the name of the node without reading its files."""
        return self._node

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start the process. Return the node's name and cores or, under `refused`, the reason for a refusal."""
        refused = self._find_obstacle(request)
        if refused is None:
            # The thread lives until the worker has ended, because the kernel kills the worker when the thread that
            # started it ends.
            threading.Thread(target=self._run, args=[request], name="worker", daemon=True).start()
            self._launched.wait()
            refused = self._error
        if refused is not None:
            return {"node": self._node, "node_id": _node_id(), "refused": refused}
        from eatnas_daemon.devices.probe import count_cores

        if request["on_gpu"]:
            self._monitor = self._watch_gpus()
        return {"node": self._node, "cores": count_cores(), **self._measure()}

    def _find_obstacle(self, request: dict[str, Any]) -> str | None:
        here = {name: _installed_version(name) for name in request["versions"]}
        unlike = [
            f"{name} {here[name] or 'is missing'} (the daemon has {version})"
            for name, version in request["versions"].items()
            if here[name] != version
        ]
        if unlike:
            return f"its packages differ from the daemon's: {', '.join(unlike)}; install the same versions"
        home, marker = Path(request["home"]), Path(request["marker"])
        with contextlib.suppress(OSError):
            if marker.read_text(encoding="utf-8") == request["token"]:
                if os.access(home, os.W_OK):
                    return None
                return f"it cannot write to the home {home}; give the user of Ray access to it"
        return f"it does not see the home {home} of the daemon; share the folder under the same path on all nodes"

    def _run(self, request: dict[str, Any]) -> None:
        try:
            self._process = self._launch(request)
        except OSError as error:
            self._error = f"the worker cannot be started there: {error}"
        self._launched.set()
        if self._process is not None:
            self._process.wait()

    def _launch(self, request: dict[str, Any]) -> subprocess.Popen[bytes]:
        from eatnas_db.domain.arithmetic import SETTINGS, worker_variables
        from eatnas_db.interpreter import python_command

        own = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, *request["replaced"])}
        paths = [path for path in (request["settings"].get("PYTHONPATH"), own.get("PYTHONPATH")) if path]
        own |= request["settings"] | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
        variables = worker_variables(own, request["arithmetic"])
        if not request["on_gpu"]:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        elif gpus := _own_gpus():
            # Set this variable here, because Ray does not set it if RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES is set
            # on the node.
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        worker_in, self._command_fd = os.pipe()
        self._report_fd, worker_out = os.pipe()
        device = "cuda:0" if request["on_gpu"] else "cpu"
        arguments = ["--in-fd", str(worker_in), "--out-fd", str(worker_out), "--device", device]
        command = python_command(*request["program"], *arguments)
        try:
            with _open_log(Path(request["log_file"])) as log:
                return subprocess.Popen(
                    [*python_command("-S", "-c", DIE_WITH_PARENT, str(os.getpid())), *command],
                    env=variables,
                    cwd=request["home"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(worker_in, worker_out),
                    start_new_session=True,
                )
        finally:
            os.close(worker_in)
            os.close(worker_out)

    def _watch_gpus(self) -> Any:
        from eatnas_daemon.devices.monitor import DeviceMonitor
        from eatnas_daemon.devices.nvml import Nvml

        nvml = Nvml()
        return DeviceMonitor(nvml.read_gpus)

    def write(self, content: bytes) -> None:
        """Write to the worker's pipe, and wait while the pipe is full. Empty content closes the pipe."""
        if not content:
            os.close(self._command_fd)
        with contextlib.suppress(BrokenPipeError):
            while content:
                content = content[os.write(self._command_fd, content) :]

    def read(self, seconds: float) -> tuple[bytes | None, dict[str, Any]]:
        """Wait up to `seconds` for output of the worker.

        Return the output (None if there was none) and the worker's state.
        """
        content, poll = None, select.poll()
        poll.register(self._report_fd, select.POLLIN)
        if poll.poll(seconds * 1000):
            content = os.read(self._report_fd, CHUNK_BYTES)
        return content, self._measure()

    def _measure(self) -> dict[str, Any]:
        """Return the worker's memory and CPU time, whether it is stopped, and the state of the node's GPUs."""
        import psutil

        measured: dict[str, Any] = {}
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid if self._process is not None else os.getpid())
            with process.oneshot():
                measured = {
                    "pid": process.pid,
                    "suspended": process.status() == psutil.STATUS_STOPPED,
                    "memory_bytes": process.memory_info().rss,
                    "cpu_seconds": sum(process.cpu_times()[:2]),
                }
        return {**measured, "gpus": self._read_gpus()}

    def _read_gpus(self) -> list[dict[str, Any]]:
        if self._monitor is None:
            return []
        names = ("uuid", "name", "index", "total_bytes", "free_bytes", "utilisation_percent")
        with contextlib.suppress(Exception):  # If the driver fails, the worker itself reports the error.
            return [{name: getattr(gpu, name) for name in names} for gpu in self._monitor.snapshots(wait=False)]
        return []

    def finish(self) -> int:
        """Return the exit status of a worker that has closed its pipe. Kill the worker if it does not exit."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_SECONDS)
        self.kill()
        return self._process.wait()

    def kill(self) -> None:
        """Kill the worker with all its descendants."""
        from eatnas_daemon.workers.process_tree import kill_process_tree

        if self._process is not None and self._process.poll() is None:
            kill_process_tree(self._process.pid)


def _node_id() -> str | None:
    """Return Ray's id of this node; None outside of a cluster."""
    ray = sys.modules.get("ray")
    return None if ray is None or not ray.is_initialized() else str(ray.get_runtime_context().get_node_id())


def _own_gpus() -> list[str]:
    """Return the GPUs that Ray has assigned to this actor, as in CUDA_VISIBLE_DEVICES; empty outside a cluster."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return []
    return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", ())]


def _installed_version(name: str) -> str | None:
    """Return the installed version without the part that names a build, such as `+cu128`."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _open_log(file: Path) -> Any:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("ab")
    except OSError:  # On a full disk, the log is lost, but the training continues.
        return Path(os.devnull).open("ab")
