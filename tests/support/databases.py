"""Marks for tests of the record that run on only one kind of database, or that are slow on PostgreSQL."""

import pytest

# These tests run on both databases: tests of locks and constraints, tests of statements that the two databases treat
# differently, and at least one test of each statement. All other tests run on SQLite.
ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
POSTGRESQL_IS_SLOW = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
