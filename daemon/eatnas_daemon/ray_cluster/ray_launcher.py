"""Start workers in actors of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eatnas_daemon.devices.model import CPU, CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.remote_process import RemoteWorkerProcess
from eatnas_daemon.ray_cluster.requests import new_socket_pair
from eatnas_daemon.ray_cluster.versions import compared_versions
from eatnas_daemon.workers.launcher import TRAINING_PROGRAM
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_db.domain.arithmetic import NATIVE, recorded_settings

FROM_DAEMON: tuple[str, ...] = ("PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables that workers take from the daemon's environment. All other variables come from the node of the worker.
"""


@dataclass(frozen=True, slots=True)
class RayLauncher:
    """Starts workers of one program on the nodes of a cluster; see `Launcher` for the fields."""

    log_folder: Path
    bridge: BridgeProcess
    program: Sequence[str] = TRAINING_PROGRAM
    arithmetic: str = NATIVE
    environment: Mapping[str, str] | None = None

    def log_file(self, slot: int) -> Path:
        """Return the log file for the output that a slot's workers write outside trainings."""
        return self.log_folder / f"worker-{slot}.log"

    def with_arithmetic(self, arithmetic: str) -> RayLauncher:
        """Return a copy of this launcher whose workers use another arithmetic."""
        return replace(self, arithmetic=arithmetic)

    def launch(self, slot: int, device: DeviceSnapshot = CPU_DEVICE) -> WorkerProcess:
        """Request a worker, which is pending until a node has room. Raises `OSError`."""
        environment = os.environ if self.environment is None else self.environment
        own = {name: environment[name] for name in FROM_DAEMON if name in environment}
        on_gpu = device.kind != CPU
        request = {
            "program": list(self.program),
            "arithmetic": self.arithmetic,
            "settings": {**own, **recorded_settings(environment)},
            "replaced": ["OMP_NUM_THREADS", "MKL_NUM_THREADS"],
            "log_file": str(self.log_file(slot)),
            "on_gpu": on_gpu,
            "versions": compared_versions(),
        }
        worker_in, command_fd = os.pipe()
        report_fd, worker_out = os.pipe()
        own_end, control = new_socket_pair()
        try:
            self.bridge.launch(request, control, worker_in, worker_out)
        except OSError:
            own_end.close()
            os.close(command_fd)
            os.close(report_fd)
            raise
        finally:
            control.close()
            os.close(worker_in)
            os.close(worker_out)
        return RemoteWorkerProcess(own_end, command_fd, report_fd, on_gpu=on_gpu)
