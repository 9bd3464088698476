"""Find devices in the database or on this machine, and pause or resume them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from eatnas_daemon.devices.inventory import with_driver_error
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.monitor import probe_once
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import find_device
from eatnas_db import hosts
from eatnas_db.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """A device of this machine, with the fields that the database stores about it."""

    uuid: str
    kind: str
    name: str


def find_recorded_uuid(connection: Connection, word: str, host_name: str) -> str | None:
    """Return the UUID of the device in the database that `word` names, or None unless it names exactly one device.

    `word` is a UUID, its beginning, or `cpu` for the CPU of `host_name`.
    """
    known = hosts.list_device_uuids(connection)
    uuid = hosts.cpu_uuid(host_name) if word == CPU else word
    matches = [one for one in known if one == uuid] or [one for one in known if one.startswith(uuid)]
    return matches[0] if len(matches) == 1 else None


def find_local_device(word: str, host_name: str) -> LocalDevice:
    """Return the device of this machine that `word` names. Probes the driver, which may take seconds.

    Raises `NotFoundError` for an unknown device.
    """
    nvml = Nvml()
    snapshots = probe_once(nvml)
    try:
        uuid = find_device(word, snapshots, "DEVICE")
    except NotFoundError as error:
        raise with_driver_error(error, nvml) from None
    (device,) = (snapshot for snapshot in snapshots if snapshot.uuid == uuid)
    recorded = hosts.cpu_uuid(host_name) if device.kind == CPU else device.uuid
    return LocalDevice(recorded, device.kind, device.name)


def set_paused(
    connection: Connection, uuid: str, local: LocalDevice | None, host_name: str, *, paused: bool, now: float
) -> bool:
    """Pause or resume a device. If `local` is given, register this device first. Return whether its state changed."""
    if local is not None:
        host_id = hosts.register_host(connection, host_name, now)
        hosts.register_device(connection, host_id, local.uuid, local.kind, local.name)
    return hosts.set_device_paused(connection, uuid, now if paused else None)
