"""The API over a cloud in a temporary folder, called without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from aimass_cloud.api.factory import create_api
from tests.fakes.cloud import CloudInMemory


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudInMemory]:
    cloud = CloudInMemory(tmp_path, max_model_bytes=1 << 20)
    yield cloud
    cloud.close()


@pytest.fixture
async def anyone(cloud: CloudInMemory) -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials."""
    transport = httpx.ASGITransport(create_api(cloud.services()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://cloud.test") as client:
        yield client


@pytest.fixture
async def http(cloud: CloudInMemory, anyone: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client with an api-key."""
    anyone.headers["authorization"] = f"Bearer {cloud.api_key()}"
    return anyone
