"""Enrolment: an enrol-token and a fresh key become an identity.

The token carries the digest of the cloud's root, so the first contact is already pinned: the root is fetched without
trust, compared with the digest, and only then is the secret sent, over TLS under that root. The key is kept before
anything is sent: when the answer is lost, the same token with the same key gets the same certificate again.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aimass.device import x509
from aimass.device.files import LOCAL_DISK, Disk
from aimass.device.https import HttpsClient
from aimass.device.identity import Identity, Trust, pending_key, prepare_folder, save_enrolment
from aimass.errors import EnrolError, IdentityError
from aimass.wire.ids import is_identity

_PREFIX = "aimass1."
_MAX_TOKEN_CHARS = 4096
_OF_ONE_CLOUD = ("desired.json", "outbox.db", "outbox.db-wal")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class EnrolToken:
    """Lets one identity in, once.

    Attributes:
        url: the cloud, ``https://host:port``.
        id: the identity it is for.
        secret: known to the cloud and the bearer only.
        ca: SHA-256 of the root certificate's DER, hex.
    """

    url: str
    id: str
    secret: str
    ca: str

    @classmethod
    def parse(cls, text: str) -> EnrolToken:
        """Read a token as it was printed.

        Raises:
            EnrolError: it is not an enrol-token.
        """
        text = text.strip()
        if not text.startswith(_PREFIX) or len(text) > _MAX_TOKEN_CHARS:
            raise EnrolError("this is not an enrol-token", hint="it starts with 'aimass1.'; copy the whole line")
        encoded = text.removeprefix(_PREFIX)
        try:
            fields = json.loads(base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True))
            token = cls(*(str(fields[name]) for name in ("url", "id", "secret", "ca")))
        except (binascii.Error, ValueError, KeyError, TypeError, RecursionError) as exc:
            raise EnrolError("the enrol-token is damaged", hint="copy the whole line again") from exc
        if not is_identity(token.id) or not _DIGEST.fullmatch(token.ca) or not token.url.startswith("https://"):
            raise EnrolError("the enrol-token makes no sense", hint="make a new one in the cloud")
        return token

    def encode(self) -> str:
        """The token as one line of text."""
        fields = {"url": self.url, "id": self.id, "secret": self.secret, "ca": self.ca}
        packed = json.dumps(fields, separators=(",", ":")).encode()
        return _PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"EnrolToken(url={self.url!r}, id={self.id!r}, secret=..., ca={self.ca!r})"


class EnrolHttp(Protocol):
    """What an enrolment needs of a connection to the cloud."""

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send JSON, get a JSON object."""

    def close(self) -> None:
        """Close the connection."""


def enrol(
    token: EnrolToken | str,
    home: Path,
    *,
    replace: bool = False,
    disk: Disk = LOCAL_DISK,
    open_client: Callable[[str, bytes | None], EnrolHttp] = HttpsClient,
) -> Identity:
    """Get an identity for this home.

    Args:
        token: the enrol-token, parsed or as text.
        home: the party's folder.
        replace: give up the identity that is there. Without it, a token for the identity that is already here
            returns that one, and any other token is refused. What was owed to another cloud, or under another name,
            is put aside: the new one could neither place it nor acknowledge it.
        disk: where to write.
        open_client: opens the connection to an address under a root (None: no root known yet).

    Returns:
        The identity, stored and loaded.

    Raises:
        EnrolError: the token is refused, the cloud is not the one the token names, or another identity is here.
        ConnectError: the cloud cannot be reached; the same token may be used again.
        NoSpaceError: the disk is full; the same token may be used again.
    """
    if isinstance(token, str):
        token = EnrolToken.parse(token)
    if not replace and Identity.is_enrolled(home):
        return _already_here(token, Identity.load(home, disk=disk))
    folder = prepare_folder(home, disk=disk)
    root_pem = _fetch_root(token, open_client)
    csr_pem = x509.signing_request(pending_key(folder, disk), token.id)
    client = open_client(token.url, root_pem)
    try:
        answer = client.request("POST", "/v1/enrol", {"secret": token.secret, "id": token.id, "csr_pem": csr_pem})
    finally:
        client.close()
    try:
        # The root is the one the digest proved and the id the one asked for, whatever the answer says of them; the
        # certificate must fit both.
        trust = Trust.from_mapping({**answer, "id": token.id, "cloud_url": token.url})
        _put_aside_what_is_of_another(token, home, disk)
        return save_enrolment(home, trust, root_pem, str(answer.get("certificate_pem", "")).encode(), disk=disk)
    except IdentityError as exc:
        raise EnrolError(f"the cloud's answer is not usable: {exc.message}") from exc


def _already_here(token: EnrolToken, identity: Identity) -> Identity:
    if identity.cn == token.id and x509.root_digest(identity.root_pem) == token.ca:
        return identity
    raise EnrolError(
        f"{identity.home} is enrolled as {identity.cn}",
        hint="use another folder, or give the old identity up (replace)",
    )


def _put_aside_what_is_of_another(token: EnrolToken, home: Path, disk: Disk) -> None:
    try:
        former = Identity.load(home, disk=disk)
    except IdentityError:  # nothing usable was here: what is there is taken to be this identity's
        return
    if former.cn == token.id and x509.root_digest(former.root_pem) == token.ca:
        return
    for name in _OF_ONE_CLOUD:
        if (home / name).exists():
            disk.rename(home / name, home / f"{name}.former")
    disk.sync_dir(home)


def _fetch_root(token: EnrolToken, open_client: Callable[[str, bytes | None], EnrolHttp]) -> bytes:
    client = open_client(token.url, None)
    try:
        root_pem = str(client.request("GET", "/v1/ca").get("root_pem", "")).encode()
    finally:
        client.close()
    try:
        digest = x509.root_digest(root_pem)
    except IdentityError as exc:
        raise EnrolError(f"{token.url} shows no usable root certificate") from exc
    if not hmac.compare_digest(digest, token.ca):
        raise EnrolError(
            f"{token.url} is not the cloud that made this enrol-token",
            hint="somebody stands between, or the token is of another cloud; nothing secret was sent",
        )
    return root_pem
