"""Blobs in an S3 bucket: AWS, or any server that speaks S3 (``endpoint_url``). The only module that imports boto3.

How a blob becomes visible whole or not at all, under a name that is only known when its last byte has been hashed:

* **It fits into one part** (manifests, small models): kept in memory, hashed, sent in one request. S3 shows an object
  when the request has succeeded, never before.
* **Its digest is known beforehand** (``sha256`` given, or a file, which is read twice): a multipart upload straight to
  its name. Parts are invisible until the upload is completed, and it is completed only when the digest holds; else it
  is aborted.
* **A long stream with an unknown digest**: a multipart upload to ``incoming/<random>``, then a copy inside S3 to its
  name, which is one request and as atomic as the first case, then the incoming object is removed.

Hashing to a file on this machine first would need as much free disk as the largest model and the time of both; this
needs two parts of memory (16 MiB). A crash leaves at most an unfinished upload or an incoming object, neither of which
is ever listed or opened; :meth:`S3BlobStore.sweep` removes those that are old. Each part carries its MD5, so S3 refuses
what was damaged on the way, and a blob that is read from its first to its last byte is hashed again.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aimass.device.files import full_disk_is_no_space
from aimass.errors import (
    AimassError,
    ConfigError,
    DigestMismatchError,
    DownloadError,
    NotFoundError,
    StoreError,
)
from aimass_cloud.blobs.base import Blob
from aimass_cloud.blobs.content import Content
from aimass_cloud.blobs.s3_errors import CREATE_BUCKET, errors_are_ours

CHUNK_BYTES = 256 * 1024
PART_BYTES = 8 * 1024 * 1024  # S3's smallest part is 5 MiB and there are at most 10,000: blobs up to 80 GB
MAX_URL_LIFE_S = 7 * 86_400  # what the signature's version 4 allows
_MAX_COPY_BYTES = 5 * 1024**3  # above that S3 copies in parts, which boto3 then does
_DIGEST = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where the blobs are and how to get in.

    Attributes:
        bucket: must exist.
        prefix: put before each key, so that a bucket can be shared; ``models/`` for example.
        endpoint_url: another server than AWS.
        region: needed by AWS unless the environment names it.
        access_key_id: left out, boto3 looks where it always does (environment, profile, instance role).
        secret_access_key: belongs to it.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)


class S3BlobStore:
    """Fulfils :class:`~aimass_cloud.blobs.base.BlobStore` with S3. Safe to use from many threads and processes.

    Args:
        place: the bucket; asked for at once, so that a wrong setting shows at the start.
        part_bytes: how much is sent in one request.
        spool: folder for the files that ``as_file`` lends; the system's temporary folder when left out.
        now: what time it is, in UTC; decides what ``sweep`` calls old.

    Raises:
        ConfigError: boto3 is not installed, there is no such bucket, or the credentials do not open it.
        StoreError: S3 cannot be reached; ``retryable``.
    """

    def __init__(
        self,
        place: S3Place,
        *,
        part_bytes: int = PART_BYTES,
        spool: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.place = place
        self._part_bytes = part_bytes
        self._spool = spool
        self._now = now
        with errors_are_ours(f"using the bucket '{place.bucket}'"):
            self._client: Any = _client(place)
        self._check_bucket()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def put(self, chunks: Iterable[bytes], *, max_bytes: int | None = None, sha256: str | None = None) -> Blob:
        """Stores what the chunks yield; see the protocol and, for how, the module's text."""
        content = Content(chunks, max_bytes, sha256)
        parts = content.parts(self._part_bytes)
        first, second = next(parts, b""), next(parts, None)
        if second is None:
            blob = content.checked()
            self._call("put_object", Key=self._key(blob.sha256), Body=first, ContentMD5=_md5(first))
            return blob
        parts = _chain((first, second), parts)
        if sha256 is not None and _DIGEST.fullmatch(sha256):
            return self._upload(self._key(sha256), parts, content)
        return self._upload_unnamed(parts, content)

    def put_file(self, path: Path, *, max_bytes: int | None = None, sha256: str | None = None) -> Blob:
        """Stores a file's bytes; see the protocol."""
        if sha256 is None and path.stat().st_size > self._part_bytes:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with path.open("rb") as file:
            return self.put(iter(lambda: file.read(CHUNK_BYTES), b""), max_bytes=max_bytes, sha256=sha256)

    def open(self, sha256: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Its bytes in chunks; see the protocol.

        Raises:
            DownloadError: from the iterator, when the connection breaks.
            DigestMismatchError: from the iterator, after the last byte of a whole blob that was changed inside S3.
        """
        key = self._key(sha256)
        if length is not None and length <= 0:
            self.size(sha256)
            return iter(())
        window: dict[str, str] = {}
        if offset or length is not None:  # not for a whole one: S3 refuses every range of an empty object
            window["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        try:
            reply = self._call("get_object", Key=key, **window)
        except StoreError as exc:
            if exc.details.get("s3_code") == "InvalidRange":  # it exists and ends before the offset
                return iter(())
            raise
        return _Body(reply["Body"], None if window else sha256)

    def size(self, sha256: str) -> int:
        """Its size in bytes."""
        return int(self._call("head_object", Key=self._key(sha256))["ContentLength"])

    def exists(self, sha256: str) -> bool:
        """Whether it is stored."""
        try:
            self.size(sha256)
        except NotFoundError:
            return False
        return True

    def delete(self, sha256: str) -> bool:
        """Removes it; False when there was none."""
        if not self.exists(sha256):  # S3 itself does not say whether there was something to delete
            return False
        self._call("delete_object", Key=self._key(sha256))
        return True

    def list(self) -> Iterator[Blob]:
        """All blobs, in no order."""
        start = self.place.prefix + "blobs/"
        for item in self._pages("list_objects_v2", "Contents", Prefix=start):
            name = item["Key"].removeprefix(start)
            if _DIGEST.fullmatch(name):
                yield Blob(name, int(item["Size"]))

    @contextmanager
    def as_file(self, sha256: str) -> Iterator[Path]:
        """A copy on this machine, checked against its digest, removed when the block ends.

        Raises:
            NoSpaceError: no room for the copy.
        """
        chunks = self.open(sha256)
        with tempfile.TemporaryDirectory(prefix="aimass-blob-", dir=self._spool) as folder:
            path = Path(folder) / sha256
            with full_disk_is_no_space("a blob"), path.open("wb") as file:
                file.writelines(chunks)
            yield path

    def download_url(self, sha256: str, *, expires_s: int = 600) -> str:
        """An address from which anybody who has it can fetch the blob, with ranges, until it expires.

        Only for a device that has already shown that it may have this blob: the address itself is the credential.

        Raises:
            NotFoundError: no such blob; better said here than by S3's XML to a device.
        """
        if not 1 <= expires_s <= MAX_URL_LIFE_S:
            raise ConfigError(f"a download address may live for 1 to {MAX_URL_LIFE_S} s, not {expires_s}")
        self.size(sha256)
        wanted = {"Bucket": self.place.bucket, "Key": self._key(sha256)}
        with errors_are_ours("signing a download address"):
            return str(self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=expires_s))

    def sweep(self, *, older_than_s: float = 86_400) -> int:
        """Removes what crashes left half-received, unless it is so new that another process may be at it."""
        before = self._now() - timedelta(seconds=older_than_s)
        incoming, removed = self.place.prefix + "incoming/", 0
        for item in self._pages("list_objects_v2", "Contents", Prefix=incoming):
            if item["LastModified"] < before:
                self._call("delete_object", Key=item["Key"])
                removed += 1
        for item in self._pages("list_multipart_uploads", "Uploads", Prefix=self.place.prefix):
            if item["Initiated"] < before:
                self._call("abort_multipart_upload", Key=item["Key"], UploadId=item["UploadId"])
                removed += 1
        return removed

    def _check_bucket(self) -> None:
        try:
            self._call("head_bucket")
        except NotFoundError as exc:  # an answer to HEAD has no body that would tell bucket from key
            raise ConfigError(f"there is no bucket '{self.place.bucket}'", hint=CREATE_BUCKET) from exc

    def _upload(self, key: str, parts: Iterable[bytes], content: Content) -> Blob:
        """A multipart upload that is completed only if the content is what was promised."""
        upload = {"Key": key, "UploadId": self._call("create_multipart_upload", Key=key)["UploadId"]}
        try:
            tags = [
                {"PartNumber": number, "ETag": self._upload_part(upload, number, part)}
                for number, part in enumerate(parts, 1)
            ]
            blob = content.checked()
            self._call("complete_multipart_upload", **upload, MultipartUpload={"Parts": tags})
        except BaseException:
            self._without_raising("abort_multipart_upload", **upload)
            raise
        return blob

    def _upload_part(self, upload: dict[str, str], number: int, part: bytes) -> str:
        reply = self._call("upload_part", **upload, PartNumber=number, Body=part, ContentMD5=_md5(part))
        return str(reply["ETag"])

    def _upload_unnamed(self, parts: Iterable[bytes], content: Content) -> Blob:
        incoming = f"{self.place.prefix}incoming/{uuid.uuid4().hex}"
        blob = self._upload(incoming, parts, content)
        try:
            self._copy(incoming, self._key(blob.sha256))
        finally:
            self._without_raising("delete_object", Key=incoming)
        return blob

    def _copy(self, source: str, target: str) -> None:
        from boto3.s3.transfer import TransferConfig

        whole = TransferConfig(multipart_threshold=_MAX_COPY_BYTES, use_threads=False)
        bucket = self.place.bucket
        with errors_are_ours("copying a blob to its name"):
            self._client.copy({"Bucket": bucket, "Key": source}, bucket, target, Config=whole)

    def _call(self, operation: str, **params: Any) -> Any:
        with errors_are_ours(operation.replace("_", " ")):
            return getattr(self._client, operation)(Bucket=self.place.bucket, **params)

    def _without_raising(self, operation: str, **params: Any) -> None:
        """Cleaning up must not hide why it was necessary; what stays is for ``sweep``."""
        try:
            self._call(operation, **params)
        except AimassError as exc:
            log.warning("%s is left in the bucket: %s", params.get("Key"), exc)

    def _pages(self, operation: str, items: str, **params: Any) -> Iterator[Any]:
        with errors_are_ours(operation.replace("_", " ")):
            pages = self._client.get_paginator(operation).paginate(Bucket=self.place.bucket, **params)
            for page in pages:
                yield from page.get(items, ())

    def _key(self, sha256: str) -> str:
        # Anything but a digest could name an incoming object, or another program's in a shared bucket.
        if not _DIGEST.fullmatch(sha256):
            raise NotFoundError(f"no blob {sha256[:64]!r}")
        return f"{self.place.prefix}blobs/{sha256}"


class _Body:
    """An object's bytes as they arrive; gives the connection back at the end, or when nobody holds it any more."""

    def __init__(self, body: Any, expected: str | None) -> None:
        self._body = body
        self._expected = expected
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._body is None:
            raise StopIteration
        try:
            with errors_are_ours("reading a blob"):
                chunk: bytes = self._body.read(CHUNK_BYTES)
        except (StoreError, OSError) as exc:
            raise DownloadError(f"the connection to S3 broke: {exc}") from exc
        if not chunk:
            self._close()
            self._check()
            raise StopIteration
        if self._expected is not None:
            self._digest.update(chunk)
        return chunk

    def __del__(self) -> None:
        self._close()

    def _check(self) -> None:
        if self._expected is not None and self._digest.hexdigest() != self._expected:
            raise DigestMismatchError(f"blob {self._expected} was changed inside S3", expected=self._expected)

    def _close(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def _client(place: S3Place) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as exc:
        raise ConfigError("boto3 is not installed", hint="install the extra: pip install 'aimass[s3]'") from exc
    settings = Config(
        signature_version="s3v4",
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32,
        # Servers that are not AWS often know neither host names for each bucket nor the newer checksums.
        s3={"addressing_style": "path" if place.endpoint_url else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.session.Session(
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
        region_name=place.region,
    )
    return session.client("s3", endpoint_url=place.endpoint_url, config=settings)


def _chain(taken: Sequence[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from taken
    yield from rest


def _md5(data: bytes) -> str:
    """S3's own check of a part; the digest that names the blob is another."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
