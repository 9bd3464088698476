"""`search delete`: delete a search with its checkpoints and logs."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import SearchName
from eatnas_cli.sentences import print_sentence
from eatnas_cli.values import count_of
from eatnas_db.artifact_paths import find_artifact
from eatnas_db.checkpoint_files import checkpoint_folder
from eatnas_db.database.engine import read_connection, write_record
from eatnas_db.errors import ConflictError
from eatnas_db.searches.delete import DeletedSearch, delete_search, require_deletable
from eatnas_db.settings import Settings

app = new_app()


@app.command()
def delete(
    ctx: typer.Context,
    name: SearchName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a search with its candidates, checkpoints and logs, unless another search depends on it."""
    settings: Settings = ctx.obj
    with read_connection(settings.database_url) as connection:
        count = require_deletable(connection, name)
    if not yes:
        _confirm(f"search {name} ({count_of(count, 'candidate')}) with all its checkpoints and logs")
    deleted = write_record(settings.database_url, lambda connection: delete_search(connection, name, time.time()))
    _delete_files(settings, deleted)
    candidates = count_of(len(deleted.candidate_ids), "candidate")
    print_sentence(f"search {name} is deleted, with {candidates}; its runs in MLflow are kept")


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise ConflictError(f"this would delete {what}; nothing was changed; add --yes to confirm")
    if not typer.confirm(f"Delete {what}? This cannot be undone."):
        raise ConflictError("nothing was changed")


def _delete_files(settings: Settings, deleted: DeletedSearch) -> None:
    """Delete the files of a deleted search that are on this host."""
    folder = find_artifact(settings.artifacts, checkpoint_folder(deleted.id))
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    for candidate_id in deleted.candidate_ids:
        (settings.logs / f"candidate-{candidate_id}.log").unlink(missing_ok=True)
