"""The first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "eatnas_architecture",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("genotype", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_architecture")),
        sa.UniqueConstraint("digest", name=op.f("uq_eatnas_architecture_digest")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_host",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_host")),
        sa.UniqueConstraint("name", name=op.f("uq_eatnas_host_name")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_provenance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("device", sa.String(length=255), nullable=False),
        sa.Column("cpu_capability", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_provenance")),
        sa.UniqueConstraint("digest", name=op.f("uq_eatnas_provenance_digest")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_record",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_eatnas_record_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_record")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_search",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("source_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("basic_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("basic_code", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("macro", sa.JSON(), nullable=False),
        sa.Column("task", sa.JSON(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("population", sa.Integer(), nullable=False),
        sa.Column("lag", sa.Integer(), nullable=False),
        sa.Column("budget_candidates", sa.BigInteger(), nullable=False),
        sa.Column("budget_device_seconds", sa.Float(), nullable=True),
        sa.Column("wish", sa.String(length=16), nullable=False),
        sa.Column("born", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settled", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("scored", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("device_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("exhausted", sa.Boolean(name="exhausted"), server_default=sa.false(), nullable=False),
        sa.Column("quality_mark", sa.Float(), nullable=True),
        sa.Column("flat_since", sa.BigInteger(), nullable=True),
        sa.Column("ends_at", sa.BigInteger(), nullable=True),
        sa.Column("waiting", sa.Text(), nullable=True),
        sa.Column("memory_share", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint("kind IN ('evolution', 'yardstick', 'final')", name=op.f("ck_eatnas_search_kind")),
        sa.CheckConstraint("wish IN ('run', 'paused', 'cancelled')", name=op.f("ck_eatnas_search_wish")),
        sa.CheckConstraint("basic_id IS NULL OR basic_code IS NOT NULL", name=op.f("ck_eatnas_search_basic_has_code")),
        sa.CheckConstraint("lag >= 1", name=op.f("ck_eatnas_search_lag")),
        sa.CheckConstraint("settled <= born", name=op.f("ck_eatnas_search_settled_births_exist")),
        sa.ForeignKeyConstraint(["source_id"], ["eatnas_search.id"], name=op.f("fk_eatnas_search_source_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_search")),
        sa.UniqueConstraint("name", name=op.f("uq_eatnas_search_name")),
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("eatnas_search", schema=None) as batch_op:
        batch_op.create_index("ix_eatnas_search_source", ["source_id"], unique=False)

    op.create_table(
        "eatnas_block",
        sa.Column("architecture_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("op", sa.String(length=3), nullable=False),
        sa.Column("kernel", sa.Integer(), nullable=False),
        sa.Column("skip", sa.Boolean(name="skip"), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("width", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["eatnas_architecture.id"], name=op.f("fk_eatnas_block_architecture_id")
        ),
        sa.PrimaryKeyConstraint("architecture_id", "position", name=op.f("pk_eatnas_block")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eatnas_candidate",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("search_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("birth", sa.BigInteger(), nullable=False),
        sa.Column("architecture_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("parent_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("replica", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("own_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("losses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("thrift", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("params", sa.BigInteger(), nullable=False),
        sa.Column("mult_adds", sa.BigInteger(), nullable=False),
        sa.Column("fitness", sa.Float(), nullable=True),
        sa.Column("accuracy", sa.Float(), nullable=True),
        sa.Column("share_inherited", sa.Float(), nullable=True),
        sa.Column("logit_distance", sa.Float(), nullable=True),
        sa.Column("lineage_epochs", sa.Integer(), nullable=True),
        sa.Column("joined", sa.BigInteger(), nullable=True),
        sa.Column("left", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "(state = 'scored') = (fitness IS NOT NULL)", name=op.f("ck_eatnas_candidate_scored_has_fitness")
        ),
        sa.CheckConstraint(
            "origin IN ('random', 'mutation', 'perturbation', 'basic', 'survivor', 'imported', 'yardstick', 'final')",
            name=op.f("ck_eatnas_candidate_origin"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'leased', 'scored', 'failed', 'cancelled')", name=op.f("ck_eatnas_candidate_state")
        ),
        sa.CheckConstraint('"left" IS NULL OR "left" >= joined', name=op.f("ck_eatnas_candidate_left_after_joined")),
        sa.CheckConstraint("birth >= 0", name=op.f("ck_eatnas_candidate_birth")),
        sa.CheckConstraint(
            "joined IS NULL OR fitness IS NOT NULL", name=op.f("ck_eatnas_candidate_members_are_scored")
        ),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["eatnas_architecture.id"], name=op.f("fk_eatnas_candidate_architecture_id")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_candidate_parent_id")),
        sa.ForeignKeyConstraint(["search_id"], ["eatnas_search.id"], name=op.f("fk_eatnas_candidate_search_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_candidate")),
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("eatnas_candidate", schema=None) as batch_op:
        batch_op.create_index(
            "ix_eatnas_candidate_by_mult_adds",
            ["search_id", "mult_adds", sa.literal_column("accuracy DESC"), "birth"],
            unique=False,
            sqlite_where=sa.text("accuracy IS NOT NULL"),
            postgresql_where=sa.text("accuracy IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_eatnas_candidate_by_params",
            ["search_id", "params", sa.literal_column("accuracy DESC"), "birth"],
            unique=False,
            sqlite_where=sa.text("accuracy IS NOT NULL"),
            postgresql_where=sa.text("accuracy IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_eatnas_candidate_fitness", ["search_id", sa.literal_column("fitness DESC"), "birth"], unique=False
        )
        batch_op.create_index(
            "ix_eatnas_candidate_left",
            ["search_id", "left"],
            unique=False,
            sqlite_where=sa.text('"left" IS NOT NULL'),
            postgresql_where=sa.text('"left" IS NOT NULL'),
        )
        batch_op.create_index(
            "ix_eatnas_candidate_living",
            ["search_id", "joined"],
            unique=False,
            sqlite_where=sa.text('joined IS NOT NULL AND "left" IS NULL'),
            postgresql_where=sa.text('joined IS NOT NULL AND "left" IS NULL'),
        )
        batch_op.create_index("ix_eatnas_candidate_parent", ["parent_id"], unique=False)
        batch_op.create_index(
            "ix_eatnas_candidate_pending",
            ["search_id", "state", "birth"],
            unique=False,
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )
        batch_op.create_index(
            "uq_eatnas_candidate_architecture", ["search_id", "architecture_id", "replica"], unique=True
        )
        batch_op.create_index("uq_eatnas_candidate_birth", ["search_id", "birth"], unique=True)

    op.create_table(
        "eatnas_device",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("host_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("paused_at", sa.Float(), nullable=True),
        sa.Column("waits", sa.Text(), nullable=True),
        sa.Column("used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["host_id"], ["eatnas_host.id"], name=op.f("fk_eatnas_device_host_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_device")),
        sa.UniqueConstraint("uuid", name=op.f("uq_eatnas_device_uuid")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_step",
        sa.Column("search_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=True),
        sa.Column("spread", sa.Float(), nullable=True),
        sa.Column("best", sa.Float(), nullable=True),
        sa.Column("quality", sa.Float(), nullable=True),
        sa.Column("device_seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["eatnas_search.id"], name=op.f("fk_eatnas_step_search_id")),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_eatnas_step")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eatnas_checkpoint",
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_checkpoint_candidate_id")
        ),
        sa.PrimaryKeyConstraint("candidate_id", "path", name=op.f("pk_eatnas_checkpoint")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eatnas_epoch",
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("train_loss", sa.Float(), nullable=False),
        sa.Column("train_accuracy", sa.Float(), nullable=False),
        sa.Column("val_loss", sa.Float(), nullable=True),
        sa.Column("val_accuracy", sa.Float(), nullable=True),
        sa.Column("learning_rate", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("load", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["candidate_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_epoch_candidate_id")),
        sa.PrimaryKeyConstraint("candidate_id", "number", name=op.f("pk_eatnas_epoch")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eatnas_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("search_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["candidate_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_event_candidate_id")),
        sa.ForeignKeyConstraint(["search_id"], ["eatnas_search.id"], name=op.f("fk_eatnas_event_search_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_event")),
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("eatnas_event", schema=None) as batch_op:
        batch_op.create_index("ix_eatnas_event_candidate", ["candidate_id", "id"], unique=False)
        batch_op.create_index("ix_eatnas_event_search", ["search_id", "id"], unique=False)

    op.create_table(
        "eatnas_lease",
        sa.Column(
            "candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("counter", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("images_per_second", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["candidate_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_lease_candidate_id")),
        sa.ForeignKeyConstraint(["host_id"], ["eatnas_host.id"], name=op.f("fk_eatnas_lease_host_id")),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_eatnas_lease")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_mutation",
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("primitive", sa.String(length=8), nullable=False),
        sa.Column("before", sa.String(length=8), nullable=False),
        sa.Column("after", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_mutation_candidate_id")
        ),
        sa.PrimaryKeyConstraint("candidate_id", "ordinal", name=op.f("pk_eatnas_mutation")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eatnas_worker",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["eatnas_device.id"], name=op.f("fk_eatnas_worker_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_worker")),
        sqlite_with_rowid=True,
    )
    op.create_table(
        "eatnas_attempt",
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("failure", sa.String(length=32), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("device_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("progressed", sa.Boolean(name="progressed"), server_default=sa.false(), nullable=False),
        sa.Column("peak_bytes", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_eatnas_attempt_ended_has_outcome")),
        sa.ForeignKeyConstraint(["candidate_id"], ["eatnas_candidate.id"], name=op.f("fk_eatnas_attempt_candidate_id")),
        sa.ForeignKeyConstraint(["worker_id"], ["eatnas_worker.id"], name=op.f("fk_eatnas_attempt_worker_id")),
        sa.PrimaryKeyConstraint("candidate_id", "number", name=op.f("pk_eatnas_attempt")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("eatnas_attempt", schema=None) as batch_op:
        batch_op.create_index(
            "uq_eatnas_attempt_living",
            ["candidate_id"],
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        )

    op.create_table(
        "eatnas_score",
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("metric", sa.String(length=32), nullable=False),
        sa.Column("seed", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("provenance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id", "attempt"],
            ["eatnas_attempt.candidate_id", "eatnas_attempt.number"],
            name=op.f("fk_eatnas_score_candidate_id_attempt"),
        ),
        sa.ForeignKeyConstraint(
            ["provenance_id"], ["eatnas_provenance.id"], name=op.f("fk_eatnas_score_provenance_id")
        ),
        sa.PrimaryKeyConstraint("candidate_id", "metric", "seed", name=op.f("pk_eatnas_score")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("eatnas_score")
    with op.batch_alter_table("eatnas_attempt", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_eatnas_attempt_living",
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        )

    op.drop_table("eatnas_attempt")
    op.drop_table("eatnas_worker")
    op.drop_table("eatnas_mutation")
    op.drop_table("eatnas_lease")
    with op.batch_alter_table("eatnas_event", schema=None) as batch_op:
        batch_op.drop_index("ix_eatnas_event_search")
        batch_op.drop_index("ix_eatnas_event_candidate")

    op.drop_table("eatnas_event")
    op.drop_table("eatnas_epoch")
    op.drop_table("eatnas_checkpoint")
    op.drop_table("eatnas_step")
    op.drop_table("eatnas_device")
    with op.batch_alter_table("eatnas_candidate", schema=None) as batch_op:
        batch_op.drop_index("uq_eatnas_candidate_birth")
        batch_op.drop_index("uq_eatnas_candidate_architecture")
        batch_op.drop_index(
            "ix_eatnas_candidate_pending",
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )
        batch_op.drop_index("ix_eatnas_candidate_parent")
        batch_op.drop_index(
            "ix_eatnas_candidate_living",
            sqlite_where=sa.text('joined IS NOT NULL AND "left" IS NULL'),
            postgresql_where=sa.text('joined IS NOT NULL AND "left" IS NULL'),
        )
        batch_op.drop_index(
            "ix_eatnas_candidate_left",
            sqlite_where=sa.text('"left" IS NOT NULL'),
            postgresql_where=sa.text('"left" IS NOT NULL'),
        )
        batch_op.drop_index("ix_eatnas_candidate_fitness")
        batch_op.drop_index(
            "ix_eatnas_candidate_by_params",
            sqlite_where=sa.text("accuracy IS NOT NULL"),
            postgresql_where=sa.text("accuracy IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_eatnas_candidate_by_mult_adds",
            sqlite_where=sa.text("accuracy IS NOT NULL"),
            postgresql_where=sa.text("accuracy IS NOT NULL"),
        )

    op.drop_table("eatnas_candidate")
    op.drop_table("eatnas_block")
    with op.batch_alter_table("eatnas_search", schema=None) as batch_op:
        batch_op.drop_index("ix_eatnas_search_source")

    op.drop_table("eatnas_search")
    op.drop_table("eatnas_record")
    op.drop_table("eatnas_provenance")
    op.drop_table("eatnas_host")
    op.drop_table("eatnas_architecture")
