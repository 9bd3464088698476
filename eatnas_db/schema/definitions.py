"""Define tables under common rules: one name prefix, named constraints and one type of id.

The prefix lets the database be shared with MLflow or Optuna. Times are seconds since 1970 (UTC) on the clock of the
host that writes them; no decision depends on them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, Index, Integer, MetaData, Table, event
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import ColumnElement, TextClause

PREFIX: Final = "eatnas_"

# SQLite assigns ids only in a column that is declared as exactly INTEGER.
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
    """Add a table to the schema. `rowid=False` stores its rows in the primary key's index on SQLite.

    `reuse_ids=False` keeps SQLite from assigning the ids of deleted rows again. PostgreSQL never does.
    """
    return Table(PREFIX + name, _METADATA, *items, sqlite_with_rowid=rowid, sqlite_autoincrement=not reuse_ids)


def define_partial_index(
    name: str, *columns: Column[Any] | ColumnElement[Any], where: TextClause, unique: bool = False
) -> None:
    """Index the rows that meet a condition, which must not have parameters: planners recognize only its text."""
    index = Index(name, *columns, unique=unique, sqlite_where=where)
    assert index.table is not None

    # An argument `postgresql_where` would load the PostgreSQL dialect whenever the schema is imported.
    @event.listens_for(index.table, "before_create")
    def add_condition(table: Table, connection: Connection, **_: object) -> None:
        if connection.dialect.name == "postgresql":
            index.dialect_kwargs["postgresql_where"] = where


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """Allow only the values of an enumeration in a column."""
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)
