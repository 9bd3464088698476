"""The identity of a record."""

from __future__ import annotations

from sqlalchemy import Connection, select

from eatnas_db.schema.record import record


def get_record_uuid(connection: Connection) -> str:
    """Return the UUID that `db upgrade` gave this record; copies and backups share it."""
    return str(connection.execute(select(record.c.uuid)).scalar_one())
