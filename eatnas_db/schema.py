"""The tables: what a search is and its whole history, with the invariants as constraints.

Every name has the prefix `eatnas_`, since the database may be shared with MLflow or Optuna.
Times are seconds since 1970 (UTC), told by the host that writes; no decision depends on them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

from eatnas_db.domain.states import CandidateState, DesiredState, Origin, SearchKind

PREFIX = "eatnas_"
VERSION_TABLE = "eatnas_alembic_version"
REVISION = "0001"
"""The Alembic revision that this code reads and writes; a test compares it with the newest script."""

# SQLite numbers rows by itself only in a column of exactly INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: type[Any]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


def _table(name: str, *parts: Any, rowid: bool = True) -> Table:
    return Table(PREFIX + name, metadata, *parts, sqlite_with_rowid=rowid)


record = _table(
    "record",
    Column("id", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("id = 1", name="single"),
    Column("uuid", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
)
"""One row: which record this is, wherever it is copied or mounted."""

search = _table(
    "search",
    Column("id", Id, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("source_id", Id, ForeignKey("eatnas_search.id")),
    Column("basic_id", Id),
    Column("basic_code", Text),
    Column("seed", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("macro", JSON, nullable=False),
    Column("task", JSON, nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("population", Integer, nullable=False),
    Column("lag", Integer, nullable=False),
    Column("budget_candidates", BigInteger, nullable=False),
    Column("budget_device_seconds", Float),
    Column("wish", String(16), nullable=False),
    Column("born", BigInteger, nullable=False, server_default=text("0")),
    Column("settled", BigInteger, nullable=False, server_default=text("0")),
    Column("scored", BigInteger, nullable=False, server_default=text("0")),
    Column("device_seconds", Float, nullable=False, server_default=text("0")),
    Column("exhausted", Boolean(name="exhausted"), nullable=False, server_default=false()),
    Column("quality_mark", Float),
    Column("flat_since", BigInteger),
    Column("ends_at", BigInteger),
    Column("waiting", Text),
    Column("memory_share", Float),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    _one_of("kind", SearchKind),
    _one_of("wish", DesiredState),
    CheckConstraint("lag >= 1", name="lag"),
    CheckConstraint("basic_id IS NULL OR basic_code IS NOT NULL", name="basic_has_code"),
    CheckConstraint("settled <= born", name="settled_births_exist"),
)
"""One search: its spec as given, and the counters of its settled prefix. `born` numbers the next birth.

A transferred search names its source, the basic candidate there, and the basic architecture as it is here; one that
begins with an architecture of the user's own has that alone. A yardstick names the search whose best it measures, final
models the search whose winners they are.
Under `stop_when: quality_flat`, `quality_mark` and `flat_since` are the last rise of quality and its step, and
`ends_at` is the number of births after which the search ends, once it is flat. `memory_share` is the most that one of
its trainings has taken of the memory foretold for it.
"""

Index("ix_eatnas_search_source", search.c.source_id)

architecture = _table(
    "architecture",
    Column("id", Id, primary_key=True),
    Column("digest", String(32), nullable=False, unique=True),
    Column("genotype", Text, nullable=False),
)
"""An effective genotype, readable; one row however many searches hold it."""

block = _table(
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

candidate = _table(
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
    _one_of("origin", Origin),
    _one_of("state", CandidateState),
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

mutation = _table(
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

host = _table(
    "host",
    Column("id", Id, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("seen_at", Float, nullable=False),
)
"""A machine with a home of its own."""

device = _table(
    "device",
    Column("id", Id, primary_key=True),
    Column("host_id", Id, ForeignKey(host.c.id), nullable=False),
    Column("uuid", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("paused_at", Float),
    Column("waits", Text),
    Column("used_bytes", BigInteger),
    Column("total_bytes", BigInteger),
    Column("seen_at", Float),
)
"""What trains: a GPU by its UUID, or a host's processor.

`paused_at`: since when it is left alone by hand. The rest is what its host's daemon saw last: `waits` says in words
why no worker may start there, and is null where one may.
"""

worker = _table(
    "worker",
    Column("id", Id, primary_key=True),
    Column("device_id", Id, ForeignKey(device.c.id), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ending", Text),
)
"""A worker process, from its first word to its end."""

provenance = _table(
    "provenance",
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("recipe", JSON, nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("versions", JSON, nullable=False),
    Column("device", String(255), nullable=False),
    Column("cpu_capability", String(32), nullable=False),
)
"""Under what a score was made; one row for each distinct combination."""

attempt = _table(
    "attempt",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("worker_id", Id, ForeignKey(worker.c.id), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(16)),
    Column("failure", String(32)),
    Column("message", Text),
    Column("traceback", Text),
    Column("device_seconds", Float, nullable=False, server_default=text("0")),
    Column("progressed", Boolean(name="progressed"), nullable=False, server_default=false()),
    Column("peak_bytes", BigInteger),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended_has_outcome"),
    rowid=False,
)
"""One try at training a candidate. The numbers of a candidate's attempts are gapless from 1.

`peak_bytes`: the most it held of a GPU's memory, where it was scored.
"""

_LIVING_ATTEMPT = text("ended_at IS NULL")
Index(
    "uq_eatnas_attempt_living",
    attempt.c.candidate_id,
    unique=True,
    sqlite_where=_LIVING_ATTEMPT,
    postgresql_where=_LIVING_ATTEMPT,
)

lease = _table(
    "lease",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("host_id", Id, ForeignKey(host.c.id), nullable=False),
    Column("counter", BigInteger, nullable=False, server_default=text("0")),
    Column("images_per_second", Float),
)
"""Who holds a candidate now. Narrow and apart, so that heartbeats touch no index of the candidates."""

epoch = _table(
    "epoch",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("train_loss", Float, nullable=False),
    Column("train_accuracy", Float, nullable=False),
    Column("val_loss", Float),
    Column("val_accuracy", Float),
    Column("learning_rate", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("ended_at", Float, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("load", Float),
    rowid=False,
)
"""One epoch of a candidate's training (from 0). A final model's has no figures of validation, for it trains on these
images too, and none of the test part, which is looked at once.

`memory_bytes` and `load` are of the device: what the worker held of it at the end of the epoch, and its share in use;
of the processor, a share of one core.
"""

score = _table(
    "score",
    Column("candidate_id", Id, nullable=False, primary_key=True),
    Column("metric", String(32), primary_key=True),
    Column("seed", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("provenance_id", Id, ForeignKey(provenance.c.id), nullable=False),
    ForeignKeyConstraint(["candidate_id", "attempt"], [attempt.c.candidate_id, attempt.c.number]),
    rowid=False,
)
"""A metric of a trained candidate, with the seed and the circumstances it was measured under."""

checkpoint = _table(
    "checkpoint",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True),
    Column("path", Text, nullable=False, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("batch", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    rowid=False,
)
"""A file that a training can go on from. Paths are relative to the home's artifacts."""

step = _table(
    "step",
    Column("search_id", Id, ForeignKey(search.c.id), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("mean", Float),
    Column("spread", Float),
    Column("best", Float),
    Column("quality", Float),
    Column("device_seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    rowid=False,
)
"""The population after `number` settled births, in a few figures.

`device_seconds`: what the devices had spent on these births when they were settled. Summed by birth and not by the
clock, so that a curve is the same on one slot and on eight.
"""

event = _table(
    "event",
    Column("id", Id, primary_key=True),
    Column("at", Float, nullable=False),
    Column("search_id", Id, ForeignKey(search.c.id)),
    Column("candidate_id", Id, ForeignKey(candidate.c.id)),
    Column("attempt", Integer),
    Column("kind", String(32), nullable=False),
    Column("detail", Text),
)
"""What happened, in order; written by the transaction that made it happen."""

Index("ix_eatnas_event_search", event.c.search_id, event.c.id)
Index("ix_eatnas_event_candidate", event.c.candidate_id, event.c.id)
