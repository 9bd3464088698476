"""The tables of searches, their sources and the steps of their populations."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    false,
    text,
)

from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.schema.definitions import Id, define_partial_index, define_table, one_of

MAXIMUM_NAME_LENGTH: Final = 64

search = define_table(
    "search",
    Column("id", Id, primary_key=True),
    Column("name", String(MAXIMUM_NAME_LENGTH), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("source_id", Id, ForeignKey("eatnas_search.id")),
    Column("source_seconds", Float),
    Column("basic_id", Id),
    Column("basic_code", Text),
    Column("seed", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("macro", JSON, nullable=False),
    Column("task", JSON, nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("data_state", JSON(none_as_null=True)),
    Column("population", Integer, nullable=False),
    Column("initial_births", Integer, nullable=False),
    Column("lag", Integer, nullable=False),
    Column("budget_candidates", BigInteger, nullable=False),
    Column("budget_device_seconds", Float),
    Column("wish", String(16), nullable=False),
    Column("born", BigInteger, nullable=False, server_default=text("0")),
    Column("settled", BigInteger, nullable=False, server_default=text("0")),
    Column("scored", BigInteger, nullable=False, server_default=text("0")),
    Column("device_seconds", Float, nullable=False, server_default=text("0")),
    Column("exhausted", Boolean(name="exhausted"), nullable=False, server_default=false()),
    Column("failed", Boolean(name="failed"), nullable=False, server_default=false()),
    Column("quality_mark", Float),
    Column("flat_since", BigInteger),
    Column("ends_at", BigInteger),
    Column("waiting", Text),
    Column("pause_reason", Text),
    Column("streak_start", BigInteger, nullable=False, server_default=text("0")),
    Column("memory_share", Float),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    one_of("kind", SearchKind),
    one_of("wish", DesiredState),
    CheckConstraint("lag >= 1", name="lag"),
    CheckConstraint("basic_id IS NULL OR basic_code IS NOT NULL", name="basic_has_code"),
    CheckConstraint("settled <= born", name="settled_births_exist"),
    reuse_ids=False,  # MLflow and the names of log files keep the ids of deleted searches
)
"""A search: its spec as the user gave it, and its counters. `born` is the number of the next birth.

`source_id` is the search from which this search was transferred, or whose candidates it trains again. `source_seconds`
are the device seconds that the source and its re-evaluations had used when this search was created. `basic_code` is the
architecture that the search starts with, and `basic_id` is the candidate of the source with this architecture, if the
search was transferred. The first `initial_births` are decided without any score. `data_state` is a
`domain.data_state.DataState`. Unless this state is null, workers compare it with the state of the images that they
load. With `stop_when: quality_flat`, `quality_mark` is the quality after its last rise, `flat_since` the step of this
rise, and `ends_at` the number of births after which the search ends. A search has `failed` if it ended without a scored
candidate. `pause_reason` is the reason why a daemon has paused the search; null if a user has paused it. Equal failures
are counted from birth `streak_start` on. `memory_share` is the largest ratio of used to estimated memory among the
trainings of the search.
"""

Index("ix_eatnas_search_source", search.c.source_id)

transfer_source = define_table(
    "transfer_source",
    Column("search_id", Id, ForeignKey(search.c.id), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("source_id", Id, ForeignKey(search.c.id), nullable=False),
    Column("births", BigInteger, nullable=False),
    Column("scores", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("kernel", JSON, nullable=False),
    Column("noise", Float, nullable=False),
    Column("device_seconds", Float, nullable=False),
    rowid=False,
)
"""A source of a search with `transfer.start: model`: a search whose scores are the prior of the model.

The source's model is fitted to the best and the latest scored births, `scores` in all, among the source's first
`births` births. These births were settled when the search was created, so they never change. `digest` is the SHA-256 of
the numbers, codes and scores of these births. `kernel` and `noise` belong to the source's model. `device_seconds` are
the device seconds that the source and its re-evaluations had used when the search was created.
"""

Index("ix_eatnas_transfer_source_source", transfer_source.c.source_id)

_OPEN = text("finished_at IS NULL")
# The index is in the order in which supervisors look for work.
define_partial_index("ix_eatnas_search_open", search.c.priority.desc(), search.c.id, where=_OPEN)


step = define_table(
    "step",
    Column("search_id", Id, ForeignKey(search.c.id), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("mean", Float),
    Column("spread", Float),
    Column("best", Float),
    Column("quality", Float),
    Column("hypervolume", Float),
    Column("device_seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    rowid=False,
)
"""The size and quality of the population after `number` settled births.

`hypervolume` is null with one objective, and until all initial births are settled. `device_seconds` is the device time
that these births had used when they were settled. The sum runs over births instead of time, so that a curve is the same
on one slot and on eight.
"""
