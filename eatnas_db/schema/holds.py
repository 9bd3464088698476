"""The table of searches that a host has set aside."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Integer, String, Text

from eatnas_db.domain.states import HoldCause
from eatnas_db.schema.definitions import Id, define_table, one_of
from eatnas_db.schema.hosts import host
from eatnas_db.schema.searches import search

hold = define_table(
    "hold",
    Column("search_id", Id, ForeignKey(search.c.id), primary_key=True),
    Column("host_id", Id, ForeignKey(host.c.id), primary_key=True),
    Column("cause", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("retry_at", Float, nullable=False),
    Column("tries", Integer, nullable=False),
    one_of("cause", HoldCause),
    rowid=False,
)
"""A search that a host has set aside since `since`, for `reason`; the host tries again at `retry_at`."""
