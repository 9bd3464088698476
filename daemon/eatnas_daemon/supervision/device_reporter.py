"""Write the status of the GPUs to the database, for `daemon status` and `devices` on other hosts."""

from __future__ import annotations

from sqlalchemy import Connection

from eatnas_daemon.devices.availability import Cause
from eatnas_daemon.devices.sharing import DeviceStatus
from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_db import hosts


class DeviceReporter:
    """Writes the statuses with each heartbeat, and when the availability of a GPU changes."""

    def __init__(self, host_id: int, gpu_scheduler: WorkerScheduler) -> None:
        self._host_id, self._gpu_scheduler = host_id, gpu_scheduler
        self._written_causes: dict[str, Cause] = {}

    def write(self, connection: Connection, now: float, *, heartbeat: bool) -> None:
        """Write the statuses if they have changed or if `heartbeat` is true."""
        statuses = self._gpu_scheduler.statuses
        causes = {status.device.uuid: status.availability.cause for status in statuses}
        if statuses and (heartbeat or causes != self._written_causes):
            self._written_causes = causes
            hosts.record_device_reports(connection, self._host_id, map(_device_report, statuses), now)


def _device_report(status: DeviceStatus) -> hosts.DeviceReport:
    device, availability = status.device, status.availability
    return hosts.DeviceReport(
        uuid=device.uuid,
        kind=device.kind,
        name=device.name,
        waits=None if availability.free or availability.cause is Cause.FULL else availability.reason,
        used_bytes=device.used_bytes,
        total_bytes=device.total_bytes,
    )
