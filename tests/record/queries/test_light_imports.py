"""Queries and commands import no heavy libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from eatnas_db import queries

QUERY_MODULES = sorted(file.stem for file in Path(queries.__file__).parent.glob("[!_]*.py"))


def test_queries_import_neither_alembic_nor_pydantic():
    modules = [*(f"eatnas_db.queries.{name}" for name in QUERY_MODULES), "eatnas_db.adhoc_sql"]
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    assert not {{"alembic", "pydantic"}} & set(sys.modules), module
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["query", "printing", "space"])
def test_command_modules_import_nothing_heavy(module):
    heavy = {"sqlalchemy", "pydantic", "rich", "alembic", "torch", "mlflow"}
    code = f"import sys, eatnas_cli.{module}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
