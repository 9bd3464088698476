"""Define tables according to common rules: a name prefix, named constraints and one type of ids.

The prefix allows MLflow or Optuna to use the same database. Times are seconds since 1970 (UTC) on the clock of the host
that writes them. No decision depends on times.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, Index, Integer, MetaData, Table, event
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import ColumnElement, TextClause

PREFIX: Final = "eatnas_"

# SQLite assigns ids only in a column whose declared type is exactly INTEGER.
Id: Final = BigInteger().with_variant(Integer, "sqlite")

_METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def define_table(name: str, *items: SchemaItem, rowid: bool = True, reuse_ids: bool = True) -> Table:
    """Add a table to the schema. With `rowid=False`, SQLite stores the rows in the index of the primary key.

    With `reuse_ids=False`, SQLite never assigns the id of a deleted row again. PostgreSQL never reuses ids.
    """
    return Table(PREFIX + name, _METADATA, *items, sqlite_with_rowid=rowid, sqlite_autoincrement=not reuse_ids)


def define_partial_index(
    name: str, *columns: Column[Any] | ColumnElement[Any], where: TextClause, unique: bool = False
) -> None:
    """Index the rows that meet a condition.

    The condition must have no parameters, because query planners compare its text.
    """
    index = Index(name, *columns, unique=unique, sqlite_where=where)
    assert index.table is not None

    # An argument `postgresql_where` would load the PostgreSQL dialect whenever the schema is imported.
    @event.listens_for(index.table, "before_create")
    def add_condition(table: Table, connection: Connection, **_: object) -> None:
        if connection.dialect.name == "postgresql":
            index.dialect_kwargs["postgresql_where"] = where


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """Return a constraint that allows only the values of an enumeration in a column."""
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)
