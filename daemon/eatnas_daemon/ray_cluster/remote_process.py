"""A worker process on a node of a Ray cluster, with the interface of a local worker process."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import Any, Final

from eatnas_daemon.devices.model import CPU, CUDA, DeviceSnapshot
from eatnas_daemon.ray_cluster.requests import receive_packet, send_if_possible
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_protocol.messages import Ready

UNPLACED_UUID: Final = "ray"
BRIDGE_ENDED: Final = "the bridge to the Ray cluster ended"


def unplaced_device(*, on_gpu: bool) -> DeviceSnapshot:
    """Return the device of a worker whose node is not known yet."""
    return DeviceSnapshot(UNPLACED_UUID, CUDA if on_gpu else CPU, "a node of the Ray cluster")


class RemoteWorkerProcess(WorkerProcess):
    """A worker in an actor. The bridge reports the actor's state over `control` and copies the bytes of both pipes."""

    def __init__(self, control: socket.socket, command_fd: int, report_fd: int, *, on_gpu: bool) -> None:
        self._actor = ActorState(control)
        super().__init__(self._actor, command_fd, report_fd)
        self._on_gpu = on_gpu

    @property
    def pending(self) -> bool:
        """Return whether the worker is waiting for room on a node."""
        return self._actor.node is None and not self._actor.ended

    @property
    def suspended(self) -> bool:
        """Return whether the process is stopped on its node, or its node does not answer."""
        return bool(self._actor.latest("suspended", False)) or self.unreachable_seconds > 0

    @property
    def unreachable_seconds(self) -> float:
        """Return the seconds for which the actor has not answered; 0 if it answers."""
        return float(self._actor.latest("silent_seconds", 0.0))

    @property
    def memory_bytes(self) -> int:
        """Return the resident memory of the process on its node."""
        return int(self._actor.latest("memory_bytes", 0))

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time of the process on its node."""
        return float(self._actor.latest("cpu_seconds", 0.0))

    @property
    def loss_reason(self) -> str | None:
        """Return the reason why the worker was lost, or None if it ended by itself."""
        return self._actor.reason

    def find_device(self, ready: Ready) -> DeviceSnapshot | None:
        """Return the device that the worker reports. Raises `ValueError` if the worker should be on a GPU but reports
        no GPU.
        """
        node, cores = self._actor.latest("node", "unknown"), int(self._actor.latest("cores", 1))
        if not self._on_gpu:
            return DeviceSnapshot(f"cpu:ray:{node}", CPU, f"processor of the Ray node {node}", cores=cores)
        if ready.gpu_uuid is None:
            raise ValueError(f"a worker on the Ray node {node} has no GPU")
        uuid = _full_uuid(ready.gpu_uuid)
        return self.read_device(DeviceSnapshot(uuid, CUDA, f"GPU of the Ray node {node}"))

    def read_device(self, device: DeviceSnapshot) -> DeviceSnapshot:
        """Return the node's last snapshot of the worker's GPU, or `device` if the node's driver does not report it."""
        node = self._actor.latest("node", "unknown")
        for gpu in self._actor.latest("gpus", ()):
            if gpu["uuid"] == device.uuid:
                return DeviceSnapshot(**{**gpu, "name": f"{gpu['name']} of the Ray node {node}"}, kind=CUDA)
        return device

    def kill(self) -> None:
        """Kill the worker and its actor."""
        if not self._closed:
            self._actor.kill()

    def _close_pipes(self) -> None:
        super()._close_pipes()
        self._actor.close()


class ActorState:
    """The state of an actor as last reported by the bridge. It takes the place of a `subprocess.Popen` object."""

    def __init__(self, control: socket.socket) -> None:
        self.pid = 0
        self._control = control
        self._control.setblocking(False)
        self._state: dict[str, Any] = {}
        self._exit_status: int | None = None
        self._closed = False
        self.reason: str | None = None

    def latest(self, key: str, default: Any) -> Any:
        """Return the value of `key` in the last state."""
        self._update()
        return self._state.get(key, default)

    @property
    def node(self) -> str | None:
        """Return the node on which the actor runs."""
        node = self.latest("node", None)
        return None if node is None else str(node)

    @property
    def ended(self) -> bool:
        """Return whether the bridge has reported the end of the worker."""
        self._update()
        return self._exit_status is not None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative for a signal. Raises `subprocess.TimeoutExpired`."""
        seconds = timeout or 0.0
        deadline = time.monotonic() + seconds
        poll = select.poll()  # `select.select` accepts no descriptor above 1023
        while not self.ended:
            poll.register(self._control, select.POLLIN)
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                if self.ended:
                    break
                raise subprocess.TimeoutExpired("worker", seconds)
        assert self._exit_status is not None
        return self._exit_status

    def kill(self) -> None:
        """Ask the bridge to kill the actor."""
        send_if_possible(self._control, {"kill": True})

    def close(self) -> None:
        """Close the socket."""
        self._closed = True
        self._control.close()

    def _update(self) -> None:
        """Read the reports of the bridge."""
        with suppress(BlockingIOError):
            while not self._closed and self._exit_status is None:
                try:
                    packet, _ = receive_packet(self._control)
                except EOFError:
                    packet = {"exit_status": -signal.SIGKILL, "reason": BRIDGE_ENDED}
                self._state |= packet
                self.pid = int(self._state.get("pid") or 0)
                if "exit_status" in packet:
                    self._exit_status, self.reason = packet["exit_status"], packet.get("reason")


def _full_uuid(reported: str) -> str:
    """Return a GPU's UUID with the prefix that the driver writes and torch leaves out."""
    return reported if reported.startswith(("GPU-", "MIG-")) else f"GPU-{reported}"
