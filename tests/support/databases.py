"""Marks of tests of the record that run on one kind of database, or on both only in the slow part."""

import pytest

# A test of what a statement means to one database, of locks or of constraints runs on both; so does at least one test
# of each statement. Other tests of the same statements, of rules in Python and of refusals run on SQLite.
ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
POSTGRESQL_IS_SLOW = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
