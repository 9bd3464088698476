"""The tables of architectures and of candidates."""

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
    and_,
    text,
)

from eatnas_db.domain.states import CandidateState, Origin
from eatnas_db.schema.definitions import Id, define_partial_index, define_table, one_of
from eatnas_db.schema.searches import search

architecture = define_table(
    "architecture",
    Column("id", Id, primary_key=True),
    Column("digest", String(32), nullable=False, unique=True),
    Column("genotype", Text, nullable=False),
)
"""An effective genotype in readable form. All searches share the row of a genotype."""


block = define_table(
    "block",
    Column("architecture_id", Id, ForeignKey(architecture.c.id), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("op", String(32), nullable=False),
    Column("kernel", Integer, nullable=False),
    Column("skip", Boolean(name="skip"), nullable=False),
    Column("depth", Integer, nullable=False),
    Column("width", Float, nullable=False),
    rowid=False,
)
"""A block of an architecture, numbered from 1. The table allows a GROUP BY over the values of a block."""


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
    Column("activations", BigInteger, nullable=False),
    Column("fitness", Float),
    Column("rung", Integer, nullable=False, server_default=text("0")),
    Column("accuracy", Float),
    Column("objectives", JSON(none_as_null=True)),
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
    reuse_ids=False,  # MLflow and the names of log files keep the ids of deleted candidates
)
"""An architecture in a search.

`code` is the proposed genotype; `attempt` is the number of the candidate's last attempt.

`rung` is the last rung of a candidate that is scored; 0 in a search without rungs. `accuracy` repeats the score of the
metric that the search optimizes, for the Pareto front; it is null if the candidate stopped before the last rung.
`objectives` is the list of the values of several objectives, in the order of the spec; null with one objective. `left`
equals `joined` if the candidate was removed as soon as it joined the population. `replica` numbers the seeds of one
architecture in a re-evaluation, among final models and among retries; elsewhere it is 0. `thrift` is how the candidate
is trained after it ran out of memory (`states.MemoryFallback`). `activations` is the number of values per image that
the training holds in memory; the memory estimate uses it. `share_inherited` is the share of the parameters that come
from the parent. `logit_distance` is the distance between the outputs of the candidate and the parent at birth.
`lineage_epochs` is the number of epochs behind the score, including inherited epochs.
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
FITTEST_FIRST: Final = (candidate.c.rung.desc(), candidate.c.fitness.desc(), candidate.c.birth)
"""The order of scored candidates, by rung and fitness; see `domain.rungs`."""
Index("ix_eatnas_candidate_fitness", candidate.c.search_id, *FITTEST_FIRST)


_ACCURATE = text("accuracy IS NOT NULL")
# The query of the Pareto front reads the columns in this order, and it reads no other columns.
for _cost in (candidate.c.mult_adds, candidate.c.params):
    define_partial_index(
        f"ix_eatnas_candidate_by_{_cost.name}",
        candidate.c.search_id,
        _cost,
        candidate.c.accuracy.desc(),
        candidate.c.birth,
        where=_ACCURATE,
    )


PENDING = text("state = 'pending'")
"""A literal instead of a bound parameter, because query planners do not use a partial index for a parameter."""
# Include the state, which is constant here, because query planners then prefer this index to the index on births.
define_partial_index(
    "ix_eatnas_candidate_pending",
    candidate.c.search_id,
    candidate.c.state,
    candidate.c.birth,
    where=PENDING,
)


WAITING = text("state = 'waiting'")
define_partial_index("ix_eatnas_candidate_waiting", candidate.c.search_id, candidate.c.birth, where=WAITING)


LIVING: Final = and_(candidate.c.joined.is_not(None), candidate.c.left.is_(None))
"""The members of the current population. The text below is the same condition, for a partial index."""
_LIVING = text('joined IS NOT NULL AND "left" IS NULL')
define_partial_index(
    "ix_eatnas_candidate_living",
    candidate.c.search_id,
    candidate.c.joined,
    where=_LIVING,
)


_GONE = text('"left" IS NOT NULL')
define_partial_index(
    "ix_eatnas_candidate_left",
    candidate.c.search_id,
    candidate.c.left,
    where=_GONE,
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
"""A change of one primitive of one block from the parent to the child."""


prediction = define_table(
    "prediction",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True),
    Column("low", Float, nullable=False),
    Column("middle", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("mean", Float, nullable=False),
    Column("deviation", Float, nullable=False),
    Column("improvement", Float, nullable=False),
    Column("margin", Float, nullable=False),
    Column("agreement", Float, nullable=False),
    Column("scores", Integer, nullable=False),
    Column("model_births", Integer, nullable=False),
    Column("kernel", JSON, nullable=False),
    Column("noise", Float, nullable=False),
    Column("slopes", JSON(none_as_null=True)),
    rowid=False,
)
"""The model's prediction for a guided birth, made before the training.

`low`, `middle` and `high` are fitness values, limited to the range of the known scores; `mean`, `deviation`,
`improvement` and `margin` are in normal scores (the quantiles of a normal distribution by rank). `agreement` is the
correlation of scores with their leave-one-out predictions. The model had `scores` scored births; `kernel`, `noise` and
`slopes` were chosen from the scores of the first `model_births` births. `slopes` has the slope of each of the search's
sources, in the order of `transfer_source`; null without sources.
"""
