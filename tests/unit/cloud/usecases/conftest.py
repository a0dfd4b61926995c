"""A cloud in a temporary folder for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cloud import CloudInMemory


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudInMemory]:
    cloud = CloudInMemory(tmp_path)
    yield cloud
    cloud.close()
