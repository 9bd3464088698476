"""Architectures, and the candidates of a search that have them."""

from __future__ import annotations

from sqlalchemy import (
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
    text,
)

from eatnas_db.domain.states import CandidateState, Origin
from eatnas_db.schema.definitions import Id, define_table, one_of
from eatnas_db.schema.searches import search

architecture = define_table(
    "architecture",
    Column("id", Id, primary_key=True),
    Column("digest", String(32), nullable=False, unique=True),
    Column("genotype", Text, nullable=False),
)
"""An effective genotype, readable; one row however many searches hold it."""


block = define_table(
    "block",
    Column("architecture_id", Id, ForeignKey(architecture.c.id), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("op", String(3), nullable=False),
    Column("kernel", Integer, nullable=False),
    Column("skip", Boolean(name="skip"), nullable=False),
    Column("depth", Integer, nullable=False),
    Column("width", Float, nullable=False),
    rowid=False,
)
"""A row for each block (from 1), so that "which kernels survive in block 5" is a GROUP BY."""


candidate = define_table(
    "candidate",
    Column("id", Id, primary_key=True),
    Column("search_id", Id, ForeignKey(search.c.id), nullable=False),
    Column("birth", BigInteger, nullable=False),
    Column("architecture_id", Id, ForeignKey(architecture.c.id), nullable=False),
    Column("code", Text, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("parent_id", Id, ForeignKey("eatnas_candidate.id")),
    Column("replica", Integer, nullable=False, server_default=text("0")),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("own_failures", Integer, nullable=False, server_default=text("0")),
    Column("losses", Integer, nullable=False, server_default=text("0")),
    Column("thrift", Integer, nullable=False, server_default=text("0")),
    Column("not_before", Float, nullable=False, server_default=text("0")),
    Column("params", BigInteger, nullable=False),
    Column("mult_adds", BigInteger, nullable=False),
    Column("fitness", Float),
    Column("accuracy", Float),
    Column("share_inherited", Float),
    Column("logit_distance", Float),
    Column("lineage_epochs", Integer),
    Column("joined", BigInteger),
    Column("left", BigInteger),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    one_of("origin", Origin),
    one_of("state", CandidateState),
    CheckConstraint("(state = 'scored') = (fitness IS NOT NULL)", name="scored_has_fitness"),
    CheckConstraint("joined IS NULL OR fitness IS NOT NULL", name="members_are_scored"),
    CheckConstraint('"left" IS NULL OR "left" >= joined', name="left_after_joined"),
    CheckConstraint("birth >= 0", name="birth"),
)
"""An architecture in a search. `code` is the genotype as proposed; `attempt` numbers its tries.

`accuracy` repeats its score on validation, for the fronts. `left` equals `joined` where a newcomer was the one to
leave. `replica` numbers its seeds, 0 but in a yardstick and among final models. `thrift` says how it is trained after
it ran out of memory (`states.Thrift`).
`share_inherited` is the share of its parameters that came from its parent, `logit_distance` how far it was from its
parent at birth, `lineage_epochs` the epochs behind its score: its own and those that it inherited.
"""

Index("uq_eatnas_candidate_birth", candidate.c.search_id, candidate.c.birth, unique=True)
Index(
    "uq_eatnas_candidate_architecture",
    candidate.c.search_id,
    candidate.c.architecture_id,
    candidate.c.replica,
    unique=True,
)
Index("ix_eatnas_candidate_parent", candidate.c.parent_id)
Index("ix_eatnas_candidate_fitness", candidate.c.search_id, candidate.c.fitness.desc(), candidate.c.birth)


_ACCURATE = text("accuracy IS NOT NULL")
# In the order in which a front is walked, with all that the walk looks at.
for _cost in (candidate.c.mult_adds, candidate.c.params):
    Index(
        f"ix_eatnas_candidate_by_{_cost.name}",
        candidate.c.search_id,
        _cost,
        candidate.c.accuracy.desc(),
        candidate.c.birth,
        sqlite_where=_ACCURATE,
        postgresql_where=_ACCURATE,
    )


PENDING = text("state = 'pending'")
"""In words and not as a parameter: only so does a planner recognize the partial index."""
# With the state, which is always the same: for two equalities a planner prefers it to the index on births.
Index(
    "ix_eatnas_candidate_pending",
    candidate.c.search_id,
    candidate.c.state,
    candidate.c.birth,
    sqlite_where=PENDING,
    postgresql_where=PENDING,
)


_LIVING = text('joined IS NOT NULL AND "left" IS NULL')
Index(
    "ix_eatnas_candidate_living",
    candidate.c.search_id,
    candidate.c.joined,
    sqlite_where=_LIVING,
    postgresql_where=_LIVING,
)


_GONE = text('"left" IS NOT NULL')
Index(
    "ix_eatnas_candidate_left",
    candidate.c.search_id,
    candidate.c.left,
    sqlite_where=_GONE,
    postgresql_where=_GONE,
)


mutation = define_table(
    "mutation",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("block", Integer, nullable=False),
    Column("primitive", String(8), nullable=False),
    Column("before", String(8), nullable=False),
    Column("after", String(8), nullable=False),
    rowid=False,
)
"""What changed from the parent to the child, one row for each primitive of a block."""
