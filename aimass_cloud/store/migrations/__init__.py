"""Alembic migrations, run by :mod:`aimass_cloud.store.migrate` at each start."""
