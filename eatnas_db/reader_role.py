"""The PostgreSQL role of `query sql`, which may read the documented views and has no other right.

The views are in the schema of the tables under prefixed names, and read the tables with the rights of the owner.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.queries.views import VIEWS
from eatnas_db.schema.definitions import PREFIX

READER_ROLE: Final = f"{PREFIX}reader"
_VIEW_PREFIX: Final = f"{PREFIX}view_"
_ROLE_EXISTS: Final = text("SELECT 1 FROM pg_roles WHERE rolname = :name").bindparams(name=READER_ROLE)


def view_name(name: str) -> str:
    """Return the name that a documented view has in the database."""
    return _VIEW_PREFIX + name


def drop_views(connection: Connection) -> None:
    """Drop the views, before a migration changes their tables. Does nothing on SQLite."""
    if is_postgresql(connection):
        for name in VIEWS:
            connection.execute(text(f"DROP VIEW IF EXISTS {view_name(name)}"))


def create_views(connection: Connection) -> None:
    """Create the views, and the role if this user may create roles. Does nothing on SQLite.

    Without the role, `query sql` has the rights of the user who runs it.
    """
    if not is_postgresql(connection):
        return
    for name, query in VIEWS.items():
        connection.execute(text(f"CREATE OR REPLACE VIEW {view_name(name)} AS {query}"))
    if connection.execute(_ROLE_EXISTS).first() is None:
        _try(connection, f"CREATE ROLE {READER_ROLE} NOLOGIN NOINHERIT")
        _try(connection, f"GRANT {READER_ROLE} TO CURRENT_USER")
    if connection.execute(_ROLE_EXISTS).first() is not None:
        schema = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
        _try(connection, f"GRANT USAGE ON SCHEMA {schema} TO {READER_ROLE}")
        _try(connection, f"GRANT SELECT ON {', '.join(map(view_name, VIEWS))} TO {READER_ROLE}")


def revoke_rights(connection: Connection) -> None:
    """Revoke the role's right on the schema. Keep the role, because other records on the server may use it."""
    if is_postgresql(connection) and connection.execute(_ROLE_EXISTS).first() is not None:
        schema = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
        _try(connection, f"REVOKE USAGE ON SCHEMA {schema} FROM {READER_ROLE}")


def try_become_reader(connection: Connection) -> bool:
    """Assume the role, and thereby give up all other rights, until the transaction ends.

    Return whether the server allows this.
    """
    first_view = view_name(next(iter(VIEWS)))
    may_read = text("SELECT count(*) FROM pg_roles WHERE rolname = :role AND has_table_privilege(oid, :view, 'SELECT')")
    if connection.execute(text("SELECT to_regclass(:view)"), {"view": first_view}).scalar() is None:
        return False
    if not connection.execute(may_read, {"role": READER_ROLE, "view": first_view}).scalar():
        return False
    return _try(connection, f"SET LOCAL ROLE {READER_ROLE}")


def is_superuser(connection: Connection) -> bool:
    """Return whether the user of a PostgreSQL connection is a superuser."""
    return bool(connection.execute(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")).scalar())


def _try(connection: Connection, statement: str) -> bool:
    """Execute a statement in a savepoint, and return whether the server allowed it."""
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except DBAPIError:
        return False
    return True
