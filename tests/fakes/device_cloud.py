"""The cloud as a device meets it, in memory: enrolment, renewal, blobs and signed documents, with faults on demand."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass.device.enrol import EnrolToken, enrol
from aimass.device.https import Body
from aimass.device.identity import Identity
from aimass.device.x509 import root_digest
from aimass.errors import AimassError, DownloadError, EnrolError, ModelNotFoundError, NotFoundError
from aimass.package.desired import Desired, DesiredModel
from aimass.package.envelope import DESIRED_TYPE, MANIFEST_TYPE, seal
from aimass.package.keys import SigningKey
from aimass.package.manifest import FileEntry, Manifest, Variant
from aimass.runtime.models import ModelInfo
from aimass.wire.tensor import Datatype, TensorSpec

URL = "https://cloud.test:8443"
SECRET = "s3cret"
SPEC = (TensorSpec("x", Datatype.FP32, (-1, 2)),)


class FakeCloud:
    """Issues certificates, signs documents, serves blobs. Also a `DeviceHttp` and an `EnrolHttp`.

    Attributes:
        calls: what was asked, as (method, path).
        errors: raised by the next calls, one each; None lets one pass.
        lost_answers: so many next answers to POSTs are lost after the work was done.
        cuts: the next downloads end after so many bytes; None lets one pass.
        ignores_ranges: answers the whole, whatever range is asked for.
        endless: appends this to each download without saying so.
        says_size: tells the size of a download.
        during_download: called after each chunk.
    """

    def __init__(
        self, *, life: dt.timedelta = dt.timedelta(days=30), backdated: dt.timedelta = dt.timedelta(0)
    ) -> None:
        self.life, self.backdated = life, backdated
        self._root_key, self._key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self._root = _certificate("Root", self._root_key.public_key(), "Root", self._root_key, ca=True)
        self._intermediate = _certificate("Mid", self._key.public_key(), "Root", self._root_key, ca=True)
        self.publisher, self.control = SigningKey.generate(), SigningKey.generate()
        self.broker: dict[str, Any] = {"host": "broker.test", "port": 8883}
        self.blobs: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.csrs: list[str] = []
        self.errors: deque[AimassError | None] = deque()
        self.lost_answers = 0
        self.cuts: deque[int | None] = deque()
        self.ignores_ranges = False
        self.endless = b""
        self.says_size = True
        self.during_download: Callable[[], None] = lambda: None
        self.chunk_bytes = 1000

    # --- certificates

    @property
    def root_pem(self) -> bytes:
        return _pem(self._root)

    def token(self, cn: str = "gw-1", **changes: str) -> EnrolToken:
        fields = {"url": URL, "id": cn, "secret": SECRET, "ca": root_digest(self.root_pem), **changes}
        return EnrolToken(**fields)

    def enrolled(self, home: Path, cn: str = "gw-1") -> Identity:
        return enrol(self.token(cn), home, open_client=lambda url, root: self)

    def certify(self, csr_pem: str, cn: str | None = None) -> str:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        name = cn or str(csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        leaf = _certificate(
            name,
            csr.public_key(),
            "Mid",
            self._key,
            life=self.life,
            backdated=self.backdated,  # type: ignore[arg-type]
        )
        return (_pem(leaf) + _pem(self._intermediate)).decode()

    # --- packages and documents

    def add_blob(self, data: bytes) -> FileEntry:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[f"/v1/blobs/{digest}"] = data
        return FileEntry(digest, len(data))

    def publish(
        self,
        name: str = "digits",
        version: int = 1,
        files: Mapping[str, bytes] | None = None,
        *,
        key: SigningKey | None = None,
        default: bool = True,
        variants: tuple[Variant, ...] = (Variant("any", "onnx", "fp32", "model.onnx"),),
    ) -> DesiredModel:
        """Put a signed package into the cloud; what a desired document says of it."""
        files = files or {"model.onnx": f"{name}:{version}".encode() * 700}
        entries = {file: self.add_blob(data) for file, data in files.items()}
        manifest = Manifest(name, version, "2026-01-02T03:04:05+00:00", SPEC, SPEC, entries, variants)
        entry = self.add_blob(seal(MANIFEST_TYPE, manifest.to_json(), [key or self.publisher]))
        return DesiredModel(name, version, f"/v1/blobs/{entry.sha256}", entry.sha256, default=default)

    def envelope(self, model: DesiredModel) -> bytes:
        return self.blobs[model.manifest_path]

    def desired(
        self,
        *models: DesiredModel,
        version: int = 1,
        epoch: int = 1000,
        device: str = "gw-1",
        key: SigningKey | None = None,
    ) -> bytes:
        document = Desired(device, epoch, version, models, issued_at_ms=0)
        return seal(DESIRED_TYPE, document.to_json(), [key or self.control])

    # --- DeviceHttp, EnrolHttp

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, auth_paths: Sequence[str] = ()
    ) -> dict[str, Any]:
        self._called(method, path)
        answer = self._answer(path, body or {})
        if method == "POST" and self.lost_answers:
            self.lost_answers -= 1
            raise DownloadError("the answer was lost", retryable=True)
        return answer

    @contextlib.contextmanager
    def download(self, path: str, *, offset_bytes: int = 0, auth_paths: Sequence[str] = ()) -> Iterator[Body]:
        self._called("GET", path if not offset_bytes else f"{path}@{offset_bytes}")
        if path not in self.blobs:
            raise NotFoundError(f"no blob {path}")
        data = self.blobs[path]
        start = 0 if self.ignores_ranges else offset_bytes
        if start and start >= len(data):
            raise DownloadError("range not satisfiable", restart=True)
        cut = self.cuts.popleft() if self.cuts else None
        yield Body(start, len(data) if self.says_size else None, self._chunks(data[start:] + self.endless, cut))

    def close(self) -> None:
        pass

    def downloads(self) -> list[str]:
        """Paths that were fetched, with @ and the offset where one was asked for."""
        return [path for method, path in self.calls if method == "GET" and "/blobs/" in path]

    def _called(self, method: str, path: str) -> None:
        self.calls.append((method, path))
        error = self.errors.popleft() if self.errors else None
        if error is not None:
            raise error

    def _answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if path == "/v1/ca":
            return {"root_pem": self.root_pem.decode(), "chain_pem": _pem(self._intermediate).decode()}
        if path == "/v1/enrol" and body["secret"] != SECRET:
            raise EnrolError("the enrol-token is unknown")
        self.csrs.append(str(body["csr_pem"]))
        keys = {"publisher_keys": [self.publisher], "control_keys": [self.control]}
        return {
            "id": body.get("id", "gw-1"),
            "certificate_pem": self.certify(str(body["csr_pem"])),
            "ca_pem": self.root_pem.decode(),
            "broker": self.broker,
            **{name: [key.public.to_pem().decode() for key in some] for name, some in keys.items()},
        }

    def _chunks(self, data: bytes, cut: int | None) -> Iterator[bytes]:
        for at in itertools.count(0, self.chunk_bytes):
            chunk = data[at : at + self.chunk_bytes]
            if cut is not None and at + len(chunk) > cut:
                yield data[at:cut]
                raise DownloadError("the transfer broke off")
            if not chunk:
                return
            yield chunk
            self.during_download()


class FakeHost:
    """Runs models in name only; writes down what it was told.

    Attributes:
        log: load, switch and unload in order.
        refuses: raised instead of loading, by (name, version).
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.refuses: dict[tuple[str, int], AimassError] = {}
        self.loaded: dict[tuple[str, int], bytes] = {}
        self.defaults: dict[str, int] = {}

    def load(self, folder: Path, manifest: Manifest, *, default: bool = True) -> ModelInfo:
        key = (manifest.name, manifest.version)
        if key in self.refuses:
            self.log.append(f"refuse {key[0]} {key[1]}")
            raise self.refuses[key]
        self.loaded[key] = (folder / manifest.variants[0].file).read_bytes()
        self.log.append(f"load {key[0]} {key[1]}")
        former = self.defaults.get(key[0])
        if default:
            self.defaults[key[0]] = key[1]
            if former is not None and former != key[1]:
                self.unload(key[0], former)
        return self._info(key)

    def make_default(self, name: str, version: int) -> None:
        assert (name, version) in self.loaded
        self.defaults[name] = version
        self.log.append(f"default {name} {version}")

    def unload(self, name: str, version: int | None = None) -> None:
        assert version is not None
        if self.loaded.pop((name, version), None) is None:
            raise ModelNotFoundError(f"{name} {version} is not loaded")
        if self.defaults.get(name) == version:
            del self.defaults[name]
        self.log.append(f"unload {name} {version}")

    def models(self) -> list[ModelInfo]:
        return [self._info(key) for key in sorted(self.loaded)]

    def _info(self, key: tuple[str, int]) -> ModelInfo:
        return ModelInfo(key[0], key[1], SPEC, SPEC, "fake", "CPU", "any", default=self.defaults.get(key[0]) == key[1])


def _certificate(
    cn: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    life: dt.timedelta = dt.timedelta(days=30),
    backdated: dt.timedelta = dt.timedelta(0),
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - backdated)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
