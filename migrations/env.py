"""Run by Alembic: migrates on the connection that `eatnas_migrations.commands` hands over."""

from alembic import context

from eatnas_db.schema.definitions import PREFIX
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.record import VERSION_TABLE


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    # The database may be shared with MLflow or Optuna: their tables are not ours to compare.
    return kind != "table" or (name or "").startswith(PREFIX)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=_ours,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
