"""S3 blobs against moto's server: what goes beyond the contract of every blob store."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import ConfigError, DigestMismatchError, NotFoundError, StoreError
from aimass_cloud.blobs.base import Blob
from aimass_cloud.blobs.s3 import S3BlobStore, S3Place
from tests.fakes.moto_server import MotoServer

pytestmark = pytest.mark.integration

PART_BYTES = 50_000
DATA = os.urandom(173_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with MotoServer(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def client(server: MotoServer) -> Iterator[Any]:
    bare = server.client()
    yield bare
    bare.close()


@pytest.fixture
def place(server: MotoServer) -> S3Place:
    return server.bucket("fleet/")


@pytest.fixture
def blobs(place: S3Place) -> Iterator[S3BlobStore]:
    store = S3BlobStore(place, part_bytes=PART_BYTES)
    yield store
    store.close()


def keys(client: Any, place: S3Place) -> list[str]:
    return [item["Key"] for item in client.list_objects_v2(Bucket=place.bucket).get("Contents", [])]


def unfinished(client: Any, place: S3Place) -> list[Any]:
    return list(client.list_multipart_uploads(Bucket=place.bucket).get("Uploads", []))


def test_a_missing_bucket_is_said_at_the_start(server: MotoServer) -> None:
    with pytest.raises(ConfigError, match="no bucket 'nowhere'") as caught:
        S3BlobStore(server.place("nowhere"))
    assert "create the bucket" in caught.value.hint


def test_a_bucket_that_goes_away_later_is_said_too(blobs: S3BlobStore, client: Any, place: S3Place) -> None:
    client.delete_bucket(Bucket=place.bucket)
    with pytest.raises(ConfigError):
        blobs.put([b"x"])


def test_an_unreachable_server_is_said_at_the_start() -> None:
    place = S3Place(
        bucket="b",
        endpoint_url="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id="id",
        secret_access_key="secret",
    )
    with pytest.raises(StoreError) as caught:
        S3BlobStore(place)
    assert caught.value.retryable


@pytest.mark.parametrize("is_expected", [True, False])
def test_a_long_stream_lies_under_its_digest_and_nothing_else_is_left(
    blobs: S3BlobStore, client: Any, place: S3Place, is_expected: bool
) -> None:
    assert blobs.put([DATA[:70_001], DATA[70_001:]], sha256=DIGEST if is_expected else None) == Blob(DIGEST, len(DATA))
    assert keys(client, place) == [f"fleet/blobs/{DIGEST}"]
    assert unfinished(client, place) == []


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_a_long_stream_that_breaks_off_leaves_nothing(
    blobs: S3BlobStore, client: Any, place: S3Place, sha256: str | None
) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.put(broken(), sha256=sha256)
    assert keys(client, place) == []
    assert unfinished(client, place) == []


def test_a_long_stream_with_another_digest_never_becomes_visible(
    blobs: S3BlobStore, client: Any, place: S3Place
) -> None:
    with pytest.raises(DigestMismatchError):
        blobs.put([DATA], sha256="0" * 64)
    assert keys(client, place) == []
    assert unfinished(client, place) == []


def test_a_stored_file_goes_straight_to_its_name(
    blobs: S3BlobStore, client: Any, place: S3Place, tmp_path: Path
) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(DATA)
    assert blobs.put_file(source).sha256 == DIGEST
    assert keys(client, place) == [f"fleet/blobs/{DIGEST}"]


def test_what_lies_beside_the_blobs_is_neither_listed_nor_found(
    blobs: S3BlobStore, client: Any, place: S3Place
) -> None:
    for key in ("other/thing", f"blobs/{DIGEST}", "fleet/incoming/half", "fleet/blobs/notes.txt"):
        client.put_object(Bucket=place.bucket, Key=key, Body=b"x")
    assert list(blobs.list()) == []
    assert not blobs.exists(DIGEST)
    with pytest.raises(NotFoundError):
        blobs.open("../incoming/half")


def test_more_blobs_than_one_page_are_all_listed(blobs: S3BlobStore, client: Any, place: S3Place) -> None:
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1003)]
    for name in names:
        client.put_object(Bucket=place.bucket, Key=f"fleet/blobs/{name}", Body=b"x")
    assert {blob.sha256 for blob in blobs.list()} == set(names)


def test_a_blob_that_was_changed_inside_s3_is_noticed_at_its_end(
    blobs: S3BlobStore, client: Any, place: S3Place
) -> None:
    blobs.put([DATA])
    client.put_object(Bucket=place.bucket, Key=f"fleet/blobs/{DIGEST}", Body=DATA[:-1] + b"?")
    with pytest.raises(DigestMismatchError):
        b"".join(blobs.open(DIGEST))
    with pytest.raises(DigestMismatchError), blobs.as_file(DIGEST):
        pass


def test_the_lent_file_is_gone_afterwards(place: S3Place, tmp_path: Path) -> None:
    blobs = S3BlobStore(place, spool=tmp_path)
    blobs.put([DATA])
    with blobs.as_file(DIGEST) as path:
        assert path.is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []
    blobs.close()


def test_an_address_lets_anybody_download_with_ranges_until_it_expires(blobs: S3BlobStore) -> None:
    blobs.put([DATA])
    url = blobs.download_url(DIGEST, expires_s=60)
    with urllib.request.urlopen(url, timeout=20) as reply:
        assert reply.read() == DATA
    window = urllib.request.Request(url, headers={"Range": "bytes=1000-1999"})
    with urllib.request.urlopen(window, timeout=20) as reply:
        assert (reply.status, reply.read()) == (206, DATA[1000:2000])
    assert "X-Amz-Expires=60" in url
    assert "X-Amz-Signature=" in url


def test_no_address_is_made_for_what_is_not_there_or_for_ever(blobs: S3BlobStore) -> None:
    with pytest.raises(NotFoundError):
        blobs.download_url(DIGEST)
    blobs.put([DATA])
    for expires_s in (0, 8 * 86_400):
        with pytest.raises(ConfigError):
            blobs.download_url(DIGEST, expires_s=expires_s)


def test_a_sweep_removes_old_leftovers_and_leaves_new_ones_and_blobs(client: Any, place: S3Place) -> None:
    now = datetime.now(UTC)
    clock = [now]
    blobs = S3BlobStore(place, part_bytes=PART_BYTES, now=lambda: clock[0])
    blobs.put([DATA])
    client.put_object(Bucket=place.bucket, Key="fleet/incoming/half", Body=b"x")
    blobs.sweep()
    assert "fleet/incoming/half" in keys(client, place)
    clock[0] = now + timedelta(days=2)
    client.create_multipart_upload(Bucket=place.bucket, Key="fleet/blobs/never-finished")
    assert blobs.sweep() == 2
    assert keys(client, place) == [f"fleet/blobs/{DIGEST}"]
    assert unfinished(client, place) == []
    blobs.close()
