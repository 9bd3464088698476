"""The table of events, in the order in which they happened."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
)

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.definitions import Id, define_table
from eatnas_db.schema.searches import search

event = define_table(
    "event",
    Column("id", Id, primary_key=True),
    Column("at", Float, nullable=False),
    Column("search_id", Id, ForeignKey(search.c.id)),
    Column("candidate_id", Id, ForeignKey(candidate.c.id)),
    Column("attempt", Integer),
    Column("kind", String(32), nullable=False),
    Column("detail", Text),
)
"""An event, inserted in the transaction of the change that it describes."""

Index("ix_eatnas_event_search", event.c.search_id, event.c.id)
Index("ix_eatnas_event_candidate", event.c.candidate_id, event.c.id)
