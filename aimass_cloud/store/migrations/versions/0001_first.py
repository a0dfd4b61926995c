"""The first schema.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String(length=100)


def upgrade() -> None:
    """Makes all tables."""
    op.create_table(
        "api_keys",
        sa.Column("id", NAME, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_sha256", sa.Text(), nullable=False),
        sa.Column("created_at_ms", BIG, nullable=False),
        sa.Column("revoked_at_ms", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", NAME, nullable=False),
        sa.Column("identity", NAME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key_sha256", sa.Text(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("issued_at_ms", BIG, nullable=False),
        sa.Column("not_after_ms", BIG, nullable=False),
        sa.Column("revoked_at_ms", BIG, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("serial"),
    )
    op.create_index("ix_certificates_identity", "certificates", ["identity"], unique=False)
    op.create_index("ix_certificates_revoked_at_ms", "certificates", ["revoked_at_ms"], unique=False)
    op.create_table(
        "desired",
        sa.Column("device", NAME, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=True),
        sa.Column("updated_at_ms", BIG, nullable=False),
        sa.PrimaryKeyConstraint("device"),
    )
    op.create_table(
        "devices",
        sa.Column("id", NAME, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("created_at_ms", BIG, nullable=False),
        sa.Column("enrolled_at_ms", BIG, nullable=True),
        sa.Column("evidence_at_ms", BIG, nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_at_ms", BIG, nullable=True),
        sa.Column("boot", sa.Text(), nullable=False),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("heartbeat_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "events",
        sa.Column("position", BIG, nullable=False),
        sa.Column("device", NAME, nullable=False),
        sa.Column("stream", NAME, nullable=False),
        sa.Column("stream_id", NAME, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("at_ms", BIG, nullable=False),
        sa.Column("received_at_ms", BIG, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("device", "stream", "stream_id", "seq", name="uq_events_seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_reading", "events", ["device", "stream", "position"], unique=False)
    op.create_index("ix_events_received_at_ms", "events", ["received_at_ms"], unique=False)
    op.create_table(
        "heads",
        sa.Column("device", NAME, nullable=False),
        sa.Column("stream", NAME, nullable=False),
        sa.Column("stream_id", NAME, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("updated_at_ms", BIG, nullable=False),
        sa.PrimaryKeyConstraint("device", "stream", "stream_id"),
    )
    op.create_table(
        "idempotency",
        sa.Column("scope", NAME, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("begun_at_ms", BIG, nullable=False),
        sa.Column("status", BIG, nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    op.create_index("ix_idempotency_begun_at_ms", "idempotency", ["begun_at_ms"], unique=False)
    op.create_table(
        "meta",
        sa.Column("key", NAME, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "models",
        sa.Column("name", NAME, nullable=False),
        sa.Column("created_at_ms", BIG, nullable=False),
        sa.Column("last_version", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tokens",
        sa.Column("secret_sha256", NAME, nullable=False),
        sa.Column("identity", NAME, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("created_at_ms", BIG, nullable=False),
        sa.Column("expires_at_ms", BIG, nullable=False),
        sa.Column("used_at_ms", BIG, nullable=True),
        sa.Column("key_sha256", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("chain_pem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("secret_sha256"),
    )
    op.create_index("ix_tokens_identity", "tokens", ["identity"], unique=False)
    op.create_table(
        "reported",
        sa.Column("device", NAME, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("boot", sa.Text(), nullable=False),
        sa.Column("at_ms", BIG, nullable=False),
        sa.Column("received_at_ms", BIG, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device"),
    )
    op.create_table(
        "versions",
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", BIG, autoincrement=False, nullable=False),
        sa.Column("created_at_ms", BIG, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("manifest_json", sa.Text(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "version"),
    )
    op.create_table(
        "aliases",
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("updated_at_ms", BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "alias"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", BIG, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", BIG, nullable=True),
        sa.Column("alias", NAME, nullable=True),
        sa.Column("device", NAME, nullable=True),
        sa.Column("created_at_ms", BIG, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("ended_at_ms", BIG, nullable=True),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deployments_active", "deployments", ["ended_at_ms", "device"], unique=False)


def downgrade() -> None:
    """Not offered: an older program is started with the backup it made."""
    raise NotImplementedError
