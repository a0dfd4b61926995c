"""A real S3 server for tests: moto's, in a process of its own, on a free loopback port.

    with MotoServer(tmp_path) as server:
        place = server.bucket()
        blobs = S3BlobStore(place)

It takes parts of any size, so that a multipart upload need not be 5 MiB large.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Self

from aimass_cloud.blobs.s3 import S3Place
from tests.fakes.waiting import until

KEY_ID, SECRET = "test-key-id", "test-secret"


class MotoServer:
    """One server process; its buckets are gone when it ends."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "moto.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
                stdout=log,
                stderr=log,
                env={**os.environ, "S3_UPLOAD_PART_MIN_SIZE": "1", "PYTHONUNBUFFERED": "1"},
            )
        until(self._is_up, "moto's server", timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def _is_up(self) -> bool:
        assert self._process is not None
        text = self._log.read_text(errors="replace")
        assert self._process.poll() is None, text
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", text)
        self.url = found[1] if found else ""
        return bool(found)

    def bucket(self, prefix: str = "") -> S3Place:
        """A new, empty bucket."""
        place = self.place(f"blobs-{uuid.uuid4().hex}", prefix)
        client = self.client()
        client.create_bucket(Bucket=place.bucket)
        client.close()
        return place

    def place(self, bucket: str, prefix: str = "") -> S3Place:
        """A bucket of that name, made or not."""
        return S3Place(
            bucket=bucket,
            prefix=prefix,
            endpoint_url=self.url,
            region="us-east-1",
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
        )

    def client(self) -> Any:
        """A bare client, to look into a bucket past the store."""
        import boto3

        session = boto3.session.Session(KEY_ID, SECRET, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.url)
