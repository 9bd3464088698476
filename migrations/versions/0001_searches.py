"""Create the tables of hosts, searches and candidates."""

import sqlalchemy as sa
from alembic import op

from eatnas_migrations.operations import ID, check, create_table, foreign_key, index

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    *("host", "device", "worker", "record", "search", "step", "architecture", "block", "candidate", "mutation"),
    *("prediction", "transfer_source"),
)

MEASURED = ("fitness", "accuracy", "share_inherited", "logit_distance")
PREDICTED = ("low", "middle", "high", "mean", "deviation", "improvement", "margin", "agreement")


def upgrade() -> None:
    steps = (
        *(create_hosts, create_record, create_searches, create_steps, create_architectures, create_candidates),
        *(index_candidates, create_mutations, create_transfer_sources),
    )
    for step in steps:
        step()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(f"eatnas_{table}")


def create_hosts() -> None:
    create_table(
        "host",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_host")),
        sa.UniqueConstraint("name", name=op.f("uq_eatnas_host_name")),
    )
    create_table(
        "device",
        sa.Column("id", ID, nullable=False),
        sa.Column("host_id", ID, nullable=False),
        sa.Column("uuid", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("paused_at", sa.Float(), nullable=True),
        sa.Column("waits", sa.Text(), nullable=True),
        sa.Column("used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.Float(), nullable=True),
        foreign_key("device", "host_id", "host"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_device")),
        sa.UniqueConstraint("uuid", name=op.f("uq_eatnas_device_uuid")),
    )
    create_table(
        "worker",
        sa.Column("id", ID, nullable=False),
        sa.Column("device_id", ID, nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("ending", sa.Text(), nullable=True),
        foreign_key("worker", "device_id", "device"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_worker")),
    )


def create_record() -> None:
    create_table(
        "record",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        check("record_single", "id = 1"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_record")),
    )


def create_searches() -> None:
    create_table(
        "search",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("source_id", ID, nullable=True),
        sa.Column("source_seconds", sa.Float(), nullable=True),
        sa.Column("basic_id", ID, nullable=True),
        sa.Column("basic_code", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("macro", sa.JSON(), nullable=False),
        sa.Column("task", sa.JSON(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("data_state", sa.JSON(none_as_null=True), nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("population", "initial_births")),
        sa.Column("lag", sa.Integer(), nullable=False),
        sa.Column("budget_candidates", sa.BigInteger(), nullable=False),
        sa.Column("budget_device_seconds", sa.Float(), nullable=True),
        sa.Column("wish", sa.String(length=16), nullable=False),
        sa.Column("born", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settled", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("scored", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("device_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("exhausted", sa.Boolean(name="exhausted"), server_default=sa.false(), nullable=False),
        sa.Column("failed", sa.Boolean(name="failed"), server_default=sa.false(), nullable=False),
        sa.Column("quality_mark", sa.Float(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in ("flat_since", "ends_at")),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("waiting", "pause_reason")),
        sa.Column("streak_start", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("memory_share", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        check("search_kind", "kind IN ('evolution', 'reevaluation', 'final', 'retry', 'imported')"),
        check("search_wish", "wish IN ('run', 'paused', 'cancelled')"),
        check("search_basic_has_code", "basic_id IS NULL OR basic_code IS NOT NULL"),
        check("search_lag", "lag >= 1"),
        check("search_settled_births_exist", "settled <= born"),
        foreign_key("search", "source_id", "search"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_search")),
        sa.UniqueConstraint("name", name=op.f("uq_eatnas_search_name")),
        reuse_ids=False,
    )
    index("ix_eatnas_search_source", "search", ["source_id"])
    index("ix_eatnas_search_open", "search", [sa.text("priority DESC"), "id"], where="finished_at IS NULL")


def create_steps() -> None:
    create_table(
        "step",
        sa.Column("search_id", ID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=True),
        sa.Column("spread", sa.Float(), nullable=True),
        sa.Column("best", sa.Float(), nullable=True),
        sa.Column("quality", sa.Float(), nullable=True),
        sa.Column("hypervolume", sa.Float(), nullable=True),
        sa.Column("device_seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        foreign_key("step", "search_id", "search"),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_eatnas_step")),
        rowid=False,
    )


def create_architectures() -> None:
    create_table(
        "architecture",
        sa.Column("id", ID, nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("genotype", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_architecture")),
        sa.UniqueConstraint("digest", name=op.f("uq_eatnas_architecture_digest")),
    )
    create_table(
        "block",
        sa.Column("architecture_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("op", sa.String(length=32), nullable=False),
        sa.Column("kernel", sa.Integer(), nullable=False),
        sa.Column("skip", sa.Boolean(name="skip"), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("width", sa.Float(), nullable=False),
        foreign_key("block", "architecture_id", "architecture"),
        sa.PrimaryKeyConstraint("architecture_id", "position", name=op.f("pk_eatnas_block")),
        rowid=False,
    )


def create_candidates() -> None:
    create_table(
        "candidate",
        sa.Column("id", ID, nullable=False),
        sa.Column("search_id", ID, nullable=False),
        sa.Column("birth", sa.BigInteger(), nullable=False),
        sa.Column("architecture_id", ID, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("parent_id", ID, nullable=True),
        sa.Column("replica", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("own_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("losses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("thrift", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.Float(), server_default=sa.text("0"), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("params", "mult_adds", "activations")),
        *(sa.Column(name, sa.Float(), nullable=True) for name in MEASURED),
        sa.Column("objectives", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rung", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lineage_epochs", sa.Integer(), nullable=True),
        sa.Column("joined", sa.BigInteger(), nullable=True),
        sa.Column("left", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        check("candidate_scored_has_fitness", "(state = 'scored') = (fitness IS NOT NULL)"),
        check(
            "candidate_origin",
            "origin IN ('random', 'mutation', 'perturbation', 'basic', 'survivor', 'imported', 'reevaluation', "
            "'final', 'retry')",
        ),
        check("candidate_state", "state IN ('pending', 'leased', 'waiting', 'scored', 'failed', 'cancelled')"),
        check("candidate_left_after_joined", '"left" IS NULL OR "left" >= joined'),
        check("candidate_birth", "birth >= 0"),
        check("candidate_members_are_scored", "joined IS NULL OR fitness IS NOT NULL"),
        foreign_key("candidate", "architecture_id", "architecture"),
        foreign_key("candidate", "parent_id", "candidate"),
        foreign_key("candidate", "search_id", "search"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eatnas_candidate")),
        reuse_ids=False,
    )


def index_candidates() -> None:
    accurate = "accuracy IS NOT NULL"
    accuracy, rung, fitness = (sa.text(f"{name} DESC") for name in ("accuracy", "rung", "fitness"))
    index("ix_eatnas_candidate_by_mult_adds", "candidate", ["search_id", "mult_adds", accuracy, "birth"], accurate)
    index("ix_eatnas_candidate_by_params", "candidate", ["search_id", "params", accuracy, "birth"], accurate)
    index("ix_eatnas_candidate_fitness", "candidate", ["search_id", rung, fitness, "birth"])
    index("ix_eatnas_candidate_left", "candidate", ["search_id", "left"], '"left" IS NOT NULL')
    living = 'joined IS NOT NULL AND "left" IS NULL'
    index("ix_eatnas_candidate_living", "candidate", ["search_id", "joined"], living)
    index("ix_eatnas_candidate_parent", "candidate", ["parent_id"])
    index("ix_eatnas_candidate_pending", "candidate", ["search_id", "state", "birth"], "state = 'pending'")
    index("ix_eatnas_candidate_waiting", "candidate", ["search_id", "birth"], "state = 'waiting'")
    architecture = ["search_id", "architecture_id", "replica"]
    index("uq_eatnas_candidate_architecture", "candidate", architecture, unique=True)
    index("uq_eatnas_candidate_birth", "candidate", ["search_id", "birth"], unique=True)


def create_mutations() -> None:
    create_table(
        "mutation",
        sa.Column("candidate_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("primitive", sa.String(length=8), nullable=False),
        sa.Column("before", sa.String(length=8), nullable=False),
        sa.Column("after", sa.String(length=8), nullable=False),
        foreign_key("mutation", "candidate_id", "candidate"),
        sa.PrimaryKeyConstraint("candidate_id", "ordinal", name=op.f("pk_eatnas_mutation")),
        rowid=False,
    )
    create_table(
        "prediction",
        sa.Column("candidate_id", ID, nullable=False),
        *(sa.Column(name, sa.Float(), nullable=False) for name in PREDICTED),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("scores", "model_births")),
        sa.Column("kernel", sa.JSON(), nullable=False),
        sa.Column("noise", sa.Float(), nullable=False),
        sa.Column("slopes", sa.JSON(), nullable=True),
        foreign_key("prediction", "candidate_id", "candidate"),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_eatnas_prediction")),
        rowid=False,
    )


def create_transfer_sources() -> None:
    create_table(
        "transfer_source",
        sa.Column("search_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("source_id", ID, nullable=False),
        sa.Column("births", sa.BigInteger(), nullable=False),
        sa.Column("scores", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("kernel", sa.JSON(), nullable=False),
        sa.Column("noise", sa.Float(), nullable=False),
        sa.Column("device_seconds", sa.Float(), nullable=False),
        foreign_key("transfer_source", "search_id", "search"),
        foreign_key("transfer_source", "source_id", "search"),
        sa.PrimaryKeyConstraint("search_id", "position", name=op.f("pk_eatnas_transfer_source")),
        rowid=False,
    )
    index("ix_eatnas_transfer_source_source", "transfer_source", ["source_id"])
