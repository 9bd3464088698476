"""Alembic runs this module. It migrates on the connection that `eatnas_migrations.commands` passes in."""

from alembic import context

from eatnas_db.schema.definitions import PREFIX
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.record import VERSION_TABLE


def _is_eatnas_table(name: str | None, kind: str, _parents: object) -> bool:
    # Ignore the tables of MLflow or Optuna, which may share the database.
    return kind != "table" or (name or "").startswith(PREFIX)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=_is_eatnas_table,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
