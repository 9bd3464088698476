"""The table with the identity of a record, and the revision of the schema."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    Integer,
    String,
)

from eatnas_db.schema.definitions import define_table

VERSION_TABLE = "eatnas_alembic_version"


REVISION = "0002"
"""The Alembic revision of this program's tables; a test compares it with the newest migration."""


record = define_table(
    "record",
    Column("id", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("id = 1", name="single"),
    Column("uuid", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
)
"""One row with the UUID of the record. Copies of the record share the UUID, and moving the record does not change it.
"""
