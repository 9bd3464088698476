"""The tables of attempts at training a candidate, and of their results."""

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
    ForeignKeyConstraint,
    Integer,
    String,
    Text,
    false,
    text,
)

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.definitions import Id, define_partial_index, define_table
from eatnas_db.schema.hosts import MAX_DEVICE_NAME, host, worker

MAX_CAPABILITY_NAME: Final = 32

provenance = define_table(
    "provenance",
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("recipe", JSON, nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("versions", JSON, nullable=False),
    Column("device", String(MAX_DEVICE_NAME), nullable=False),
    Column("cpu_capability", String(MAX_CAPABILITY_NAME), nullable=False),
    Column("settings", JSON, nullable=False),
)
"""The conditions of a measurement. Each distinct combination has one row.

`settings` are the environment variables of the worker that may change the bits of its results.
"""


attempt = define_table(
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
    Column("step_seconds", Float),
    Column("progressed", Boolean(name="progressed"), nullable=False, server_default=false()),
    Column("peak_bytes", BigInteger),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended_has_outcome"),
    rowid=False,
)
"""An attempt at training a candidate. The attempts of a candidate are numbered from 1 without gaps.

`step_seconds` is the time in training and validation steps; null if it equals the device seconds. `device_seconds` is
the attempt's share of the step seconds if several trainings shared the device, so the device seconds of all attempts on
a GPU add up to wall time. `peak_bytes` is the peak GPU memory of a scored attempt.
"""


_LIVING_ATTEMPT = text("ended_at IS NULL")
define_partial_index(
    "uq_eatnas_attempt_living",
    attempt.c.candidate_id,
    unique=True,
    where=_LIVING_ATTEMPT,
)


lease = define_table(
    "lease",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("host_id", Id, ForeignKey(host.c.id), nullable=False),
    Column("counter", BigInteger, nullable=False, server_default=text("0")),
    Column("images_per_second", Float),
    Column("device_share", Float, nullable=False, server_default=text("1")),
    Column("step_seconds", Float, nullable=False, server_default=text("0")),
)
"""The current holder of a candidate. The table is separate, so that heartbeats change no index of candidates.

`device_share` is the training's share of its device so far: its device seconds divided by its seconds in steps.
`step_seconds` are the seconds in steps at the last heartbeat. If the daemon is killed, these seconds include the time
of an unfinished epoch.
"""


epoch = define_table(
    "epoch",
    Column("candidate_id", Id, ForeignKey(candidate.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("train_loss", Float),
    Column("train_accuracy", Float),
    Column("val_loss", Float),
    Column("val_accuracy", Float),
    Column("learning_rate", Float),
    Column("seconds", Float, nullable=False),
    Column("ended_at", Float, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("load", Float),
    Column("metrics", JSON(none_as_null=True)),
    rowid=False,
)
"""An epoch of a candidate's training, numbered from 0.

The validation columns of a final model are null, because a final model also trains on the validation images. `metrics`
are the further metrics of a user's own training function, which may leave the columns empty; null with the built-in
training. `memory_bytes` is the device memory of the worker at the end of the epoch. `load` is the share of the GPU, or
of one processor core, that is in use.
"""


score = define_table(
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
"""A metric of a trained candidate, with its seed and provenance."""


measurement = define_table(
    "measurement",
    Column("candidate_id", Id, nullable=False, primary_key=True),
    Column("metric", String(32), primary_key=True),
    Column("device", String(16), nullable=False),
    Column("device_name", String(MAX_DEVICE_NAME), nullable=False),
    Column("batch", Integer, nullable=False),
    Column("threads", Integer, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("median", Float, nullable=False),
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("quiet", Boolean(name="quiet")),
    Column("attempt", Integer, nullable=False),
    ForeignKeyConstraint(["candidate_id", "attempt"], [attempt.c.candidate_id, attempt.c.number]),
    rowid=False,
)
"""A metric that was measured on a device after the training, such as the latency in milliseconds.

`low`, `median` and `high` are the quartiles of `runs` measurements. `quiet` is true if the processor had little other
work during the measurements; null if that is unknown. A measurement depends on the machine, so it is not a score and
not part of the fingerprint.
"""


rung = define_table(
    "rung",
    Column("candidate_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("epochs", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fitness", Float, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("provenance_id", Id, ForeignKey(provenance.c.id), nullable=False),
    Column("promoted", Boolean(name="promoted")),
    Column("ended_at", Float, nullable=False),
    ForeignKeyConstraint(["candidate_id", "attempt"], [attempt.c.candidate_id, attempt.c.number]),
    rowid=False,
)
"""The result of a candidate at a rung, numbered from 0: its scores after `epochs` epochs.

`promoted` is true if the candidate continues; null before the decision. Searches without rungs have no rows.
"""


checkpoint = define_table(
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
"""A file that a training can resume from. `path` is relative to the home's artifacts.

`artifact_paths.find_artifact` checks a path before the file is read or deleted.
"""
