"""Create the tables of trainings, events and holds."""

import sqlalchemy as sa
from alembic import op

from eatnas_migrations.operations import ID, check, create_table, foreign_key, index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("provenance", "attempt", "lease", "epoch", "score", "rung", "measurement", "checkpoint", "event", "hold")


def upgrade() -> None:
    for step in (
        create_attempts,
        create_results,
        create_measurements,
        create_rungs,
        create_checkpoints,
        create_events,
        create_holds,
    ):
        step()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(f"eatnas_{table}")


def create_attempts() -> None:
    create_table(
        "provenance",
        sa.Column("id", ID, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("device", sa.String(length=255), nullable=False),
        sa.Column("cpu_capability", sa.String(length=32), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_provenance")),
        sa.UniqueConstraint("digest", name=op.f("uq_eatnas_provenance_digest")),
    )
    create_table(
        "attempt",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", ID, nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("failure", sa.String(length=32), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("device_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("step_seconds", sa.Float(), nullable=True),
        sa.Column("progressed", sa.Boolean(name="progressed"), server_default=sa.false(), nullable=False),
        sa.Column("peak_bytes", sa.BigInteger(), nullable=True),
        check("attempt_ended_has_outcome", "(ended_at IS NULL) = (outcome IS NULL)"),
        foreign_key("attempt", "candidate_id", "candidate"),
        foreign_key("attempt", "worker_id", "worker"),
        sa.PrimaryKeyConstraint("candidate_id", "number", name=op.f("pk_eatnas_attempt")),
        rowid=False,
    )
    index("uq_eatnas_attempt_living", "attempt", ["candidate_id"], "ended_at IS NULL", unique=True)
    create_table(
        "lease",
        sa.Column("candidate_id", ID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host_id", ID, nullable=False),
        sa.Column("counter", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("images_per_second", sa.Float(), nullable=True),
        sa.Column("device_share", sa.Float(), server_default=sa.text("1"), nullable=False),
        sa.Column("step_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        foreign_key("lease", "candidate_id", "candidate"),
        foreign_key("lease", "host_id", "host"),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_eatnas_lease")),
    )


def create_results() -> None:
    create_table(
        "epoch",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("train_loss", sa.Float(), nullable=True),
        sa.Column("train_accuracy", sa.Float(), nullable=True),
        sa.Column("val_loss", sa.Float(), nullable=True),
        sa.Column("val_accuracy", sa.Float(), nullable=True),
        sa.Column("learning_rate", sa.Float(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("load", sa.Float(), nullable=True),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=True),
        foreign_key("epoch", "candidate_id", "candidate"),
        sa.PrimaryKeyConstraint("candidate_id", "number", name=op.f("pk_eatnas_epoch")),
        rowid=False,
    )
    create_table(
        "score",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("metric", sa.String(length=32), nullable=False),
        sa.Column("seed", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("provenance_id", ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id", "attempt"],
            ["eatnas_attempt.candidate_id", "eatnas_attempt.number"],
            name=op.f("fk_eatnas_score_candidate_id_attempt"),
        ),
        foreign_key("score", "provenance_id", "provenance"),
        sa.PrimaryKeyConstraint("candidate_id", "metric", "seed", name=op.f("pk_eatnas_score")),
        rowid=False,
    )


def create_measurements() -> None:
    create_table(
        "measurement",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("metric", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("device_name", sa.String(length=255), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("batch", "threads", "runs")),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("median", "low", "high")),
        sa.Column("quiet", sa.Boolean(name="quiet"), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id", "attempt"],
            ["eatnas_attempt.candidate_id", "eatnas_attempt.number"],
            name=op.f("fk_eatnas_measurement_candidate_id_attempt"),
        ),
        sa.PrimaryKeyConstraint("candidate_id", "metric", name=op.f("pk_eatnas_measurement")),
        rowid=False,
    )


def create_rungs() -> None:
    create_table(
        "rung",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fitness", sa.Float(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("provenance_id", ID, nullable=False),
        sa.Column("promoted", sa.Boolean(name="promoted"), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id", "attempt"],
            ["eatnas_attempt.candidate_id", "eatnas_attempt.number"],
            name=op.f("fk_eatnas_rung_candidate_id_attempt"),
        ),
        foreign_key("rung", "provenance_id", "provenance"),
        sa.PrimaryKeyConstraint("candidate_id", "number", name=op.f("pk_eatnas_rung")),
        rowid=False,
    )


def create_checkpoints() -> None:
    create_table(
        "checkpoint",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        foreign_key("checkpoint", "candidate_id", "candidate"),
        sa.PrimaryKeyConstraint("candidate_id", "path", name=op.f("pk_eatnas_checkpoint")),
        rowid=False,
    )


def create_events() -> None:
    create_table(
        "event",
        sa.Column("id", ID, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("search_id", ID, nullable=True),
        sa.Column("candidate_id", ID, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        foreign_key("event", "candidate_id", "candidate"),
        foreign_key("event", "search_id", "search"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_event")),
    )
    index("ix_eatnas_event_candidate", "event", ["candidate_id", "id"])
    index("ix_eatnas_event_search", "event", ["search_id", "id"])


def create_holds() -> None:
    create_table(
        "hold",
        sa.Column("search_id", ID, nullable=False),
        sa.Column("host_id", ID, nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("retry_at", sa.Float(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        check("hold_cause", "cause IN ('error', 'data', 'plugin')"),
        foreign_key("hold", "host_id", "host"),
        foreign_key("hold", "search_id", "search"),
        sa.PrimaryKeyConstraint("search_id", "host_id", name=op.f("pk_eatnas_hold")),
        rowid=False,
    )
