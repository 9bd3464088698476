"""Create constraints and indexes with the names of this schema, for the migration scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def create_table(name: str, *items: SchemaItem, rowid: bool = True, reuse_ids: bool = True) -> None:
    """Create a table; see `schema.definitions.define_table`."""
    op.create_table(f"eatnas_{name}", *items, sqlite_with_rowid=rowid, sqlite_autoincrement=not reuse_ids)


def check(name: str, condition: str) -> sa.CheckConstraint:
    """Return a check constraint of a table."""
    return sa.CheckConstraint(condition, name=op.f(f"ck_eatnas_{name}"))


def foreign_key(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    """Return the constraint that the values of a column are ids of another table."""
    return sa.ForeignKeyConstraint([column], [f"eatnas_{target}.id"], name=op.f(f"fk_eatnas_{table}_{column}"))


def index(name: str, table: str, columns: Sequence[Any], where: str | None = None, unique: bool = False) -> None:
    """Create an index; `where` limits it to the rows that meet a condition."""
    condition = None if where is None else sa.text(where)
    op.create_index(name, f"eatnas_{table}", columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
