"""The tables of hosts, devices and workers."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    String,
    Text,
)

from eatnas_db.schema.definitions import Id, define_table
from eatnas_db.settings import MAX_HOST_NAME

MAX_DEVICE_NAME: Final = 255

host = define_table(
    "host",
    Column("id", Id, primary_key=True),
    Column("name", String(MAX_HOST_NAME), nullable=False, unique=True),
    Column("seen_at", Float, nullable=False),
    Column("owner", String(32)),
)
"""A machine with its own home. `owner` is a random token of the last daemon that was started under this name."""


device = define_table(
    "device",
    Column("id", Id, primary_key=True),
    Column("host_id", Id, ForeignKey(host.c.id), nullable=False),
    Column("uuid", String(MAX_HOST_NAME + 45), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(MAX_DEVICE_NAME), nullable=False),
    Column("paused_at", Float),
    Column("waits", Text),
    Column("used_bytes", BigInteger),
    Column("total_bytes", BigInteger),
    Column("seen_at", Float),
)
"""A GPU, identified by its UUID, or a host's CPU.

`paused_at` is the time at which a user paused the device. The columns after `paused_at` hold the last report of the
daemon on the device's host. `waits` is the reason why no worker may start on the device, or null if a worker may start.
"""


worker = define_table(
    "worker",
    Column("id", Id, primary_key=True),
    Column("device_id", Id, ForeignKey(device.c.id), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ending", Text),
)
"""A worker process, recorded from its first message on."""
