"""Brings a database to the schema of this program, at each start."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from aimass.errors import ConfigError

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Applies what is missing, inside the connection's transaction: all of it or nothing.

    Raises:
        ConfigError: the database was made by a newer program.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise ConfigError(
            f"the database has a schema this program does not know: {exc}", hint="start the newer program again"
        ) from exc
