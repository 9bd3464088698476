"""Hosts, their devices and their workers."""

from __future__ import annotations

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

host = define_table(
    "host",
    Column("id", Id, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("seen_at", Float, nullable=False),
)
"""A machine with a home of its own."""


device = define_table(
    "device",
    Column("id", Id, primary_key=True),
    Column("host_id", Id, ForeignKey(host.c.id), nullable=False),
    Column("uuid", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("paused_at", Float),
    Column("waits", Text),
    Column("used_bytes", BigInteger),
    Column("total_bytes", BigInteger),
    Column("seen_at", Float),
)
"""What trains: a GPU by its UUID, or a host's processor.

`paused_at`: since when it is left alone by hand. The rest is what its host's daemon saw last: `waits` says in words
why no worker may start there, and is null where one may.
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
"""A worker process, from its first word to its end."""
