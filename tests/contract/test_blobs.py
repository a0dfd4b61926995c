"""What every blob store does. A further store is one more entry in ``STORES``.

The folder runs always. S3 runs against moto's server, which is started for real (marked integration): once with the
parts it has in production, so that everything here fits into one, and once with parts so small that it is uploaded in
many.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import pytest

from aimass.errors import DigestMismatchError, FrameTooLargeError, NotFoundError
from aimass_cloud.blobs.base import Blob, BlobStore
from aimass_cloud.blobs.local import LocalBlobStore
from aimass_cloud.blobs.s3 import S3BlobStore
from tests.fakes.moto_server import MotoServer

Opened = AbstractContextManager[BlobStore]


def local_store(request: pytest.FixtureRequest) -> Opened:
    return nullcontext(LocalBlobStore(request.getfixturevalue("tmp_path") / "blobs"))


def s3_store(request: pytest.FixtureRequest) -> Opened:
    server: MotoServer = request.getfixturevalue("s3_server")
    return closing(S3BlobStore(server.bucket()))


def s3_store_with_small_parts(request: pytest.FixtureRequest) -> Opened:
    server: MotoServer = request.getfixturevalue("s3_server")
    return closing(S3BlobStore(server.bucket("shared/with/others/"), part_bytes=200_000))


STORES: dict[str, Callable[[pytest.FixtureRequest], Opened]] = {
    "local": local_store,
    "s3": s3_store,
    "s3-small-parts": s3_store_with_small_parts,
}
DATA = bytes(range(256)) * 4096  # 1 MiB: more than one chunk of any store
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with MotoServer(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.integration] if name.startswith("s3") else []) for name in STORES]
)
def blobs(request: pytest.FixtureRequest) -> Iterator[BlobStore]:
    with STORES[request.param](request) as store:
        yield store


def read(blobs: BlobStore, digest: str, **window: int) -> bytes:
    return b"".join(blobs.open(digest, **window))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def test_gives_back_the_bytes_under_their_digest(blobs: BlobStore) -> None:
    assert blobs.put(pieces(DATA, 1000)) == Blob(DIGEST, len(DATA))
    assert read(blobs, DIGEST) == DATA
    assert blobs.size(DIGEST) == len(DATA)
    assert blobs.exists(DIGEST)


def test_stores_an_empty_blob(blobs: BlobStore) -> None:
    blob = blobs.put([])
    assert blob == Blob(hashlib.sha256().hexdigest(), 0)
    assert read(blobs, blob.sha256) == b""


def test_storing_the_same_bytes_twice_changes_nothing(blobs: BlobStore) -> None:
    assert blobs.put([DATA]) == blobs.put(pieces(DATA, 7777), sha256=DIGEST, max_bytes=len(DATA))
    assert list(blobs.list()) == [Blob(DIGEST, len(DATA))]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (1, None), (300_000, 600_000), (len(DATA), None), (len(DATA) - 1, 5), (5, 0)]
)
def test_opens_a_range(blobs: BlobStore, offset: int, length: int | None) -> None:
    blobs.put([DATA])
    end = None if length is None else offset + length
    assert b"".join(blobs.open(DIGEST, offset=offset, length=length)) == DATA[offset:end]


@pytest.mark.parametrize("name", ["0" * 64, "", "..", "../../etc/passwd", DIGEST.upper(), DIGEST + "/", "tmp"])
def test_what_is_not_stored_is_not_found_at_once(blobs: BlobStore, name: str) -> None:
    for ask in (blobs.open, blobs.size):
        with pytest.raises(NotFoundError):
            ask(name)
    with pytest.raises(NotFoundError), blobs.as_file(name):
        pass
    assert not blobs.exists(name)
    assert blobs.delete(name) is False


def test_refuses_more_bytes_than_allowed_and_keeps_nothing(blobs: BlobStore) -> None:
    with pytest.raises(FrameTooLargeError) as caught:
        blobs.put(pieces(DATA, 1000), max_bytes=len(DATA) - 1)
    assert caught.value.limit_bytes == len(DATA) - 1
    assert not list(blobs.list())


def test_stops_reading_an_endless_source_at_the_limit(blobs: BlobStore) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield bytes(1000)

    with pytest.raises(FrameTooLargeError):
        blobs.put(endless(), max_bytes=10_000)
    assert taken == 11_000


def test_refuses_other_bytes_than_expected_and_keeps_nothing(blobs: BlobStore) -> None:
    with pytest.raises(DigestMismatchError):
        blobs.put([DATA, b"x"], sha256=DIGEST)
    assert not list(blobs.list())


def test_keeps_nothing_of_a_source_that_breaks_off(blobs: BlobStore) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.put(broken())
    assert not list(blobs.list())


def test_deletes(blobs: BlobStore) -> None:
    blobs.put([DATA])
    assert blobs.delete(DIGEST) is True
    assert blobs.delete(DIGEST) is False
    assert not list(blobs.list())


def test_a_download_that_has_begun_survives_the_deletion(blobs: BlobStore) -> None:
    blobs.put([DATA])
    stream = blobs.open(DIGEST)
    first = next(stream)
    blobs.delete(DIGEST)
    assert first + b"".join(stream) == DATA


def test_a_download_that_nobody_reads_leaks_nothing(blobs: BlobStore) -> None:
    blobs.put([DATA])
    blobs.open(DIGEST)  # warnings are errors: a file left open would fail this test


def test_stores_from_a_file_and_lends_one(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(DATA)
    assert blobs.put_file(source, sha256=DIGEST) == Blob(DIGEST, len(DATA))
    with blobs.as_file(DIGEST) as path:
        assert path.read_bytes() == DATA


def test_many_threads_store_the_same_and_different_blobs(blobs: BlobStore) -> None:
    def work(number: int) -> None:
        blobs.put([DATA])
        blobs.put([str(number).encode()])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(list(blobs.list())) == 9
    assert read(blobs, DIGEST) == DATA
