"""Queries and commands import no heavy libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from eatnas_db import queries

QUERY_MODULES = sorted(file.stem for file in Path(queries.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("module", [*(f"queries.{name}" for name in QUERY_MODULES), "adhoc_sql"])
def test_queries_import_neither_alembic_nor_pydantic(module):
    code = f"import sys, eatnas_db.{module}; assert not {{'alembic', 'pydantic'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["query", "printing", "space"])
def test_command_modules_import_nothing_heavy(module):
    heavy = {"sqlalchemy", "pydantic", "rich", "alembic", "torch", "mlflow"}
    code = f"import sys, eatnas_cli.{module}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
