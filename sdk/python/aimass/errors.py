"""Every error of AI Mass, in one tree.

    AimassError                    code, retryable, hint
    ├─ ConfigError                 a setting is missing or makes no sense; names key and source
    ├─ WireError                   bytes that are not a message
    │  ├─ FrameError               preamble, lengths, header JSON
    │  ├─ FrameTooLargeError       a declared or real size is above the limit
    │  ├─ TensorError              a tensor's name, datatype, shape or data do not fit together
    │  └─ UnsupportedWireVersionError
    ├─ TrustError                  never retried
    │  ├─ SignatureError           unsigned, or signed by a key that is not pinned
    │  ├─ DigestMismatchError      bytes differ from the digest that was signed
    │  ├─ RollbackError            older than what was already accepted (replay)
    │  └─ ExpiredError
    ├─ PackageError                a manifest that does not say what it must
    ├─ ModelError
    │  ├─ ModelNotFoundError       no such model or version here
    │  ├─ ModelInvalidError        not ONNX, broken, cut off, unsupported operators, too large
    │  ├─ ModelLoadError           the engine refused it
    │  ├─ GoldenMismatchError      loaded, but answers differently from its golden vectors
    │  ├─ EngineMissingError       engine or execution provider is not on this machine
    │  └─ EngineRunError           the engine failed while running
    ├─ InputError                  the caller's tensors do not fit the model
    ├─ OverloadError               queue full or quota reached; answered at once
    ├─ DeadlineError               the deadline passed, or can no longer be met
    ├─ CancelledError
    ├─ TransportError
    │  ├─ ConnectError             cannot reach or refused at the TLS or MQTT handshake
    │  ├─ LinkDownError            not connected now
    │  ├─ NobodyListensError       MQTT reason 0x10: no dispatcher serves this pool
    │  ├─ RefusedError             the broker said no (0x87, 0x97, ...)
    │  └─ RemoteError              the other side answered with an error
    ├─ IdentityError
    │  ├─ EnrolError               token unknown, used by another key, wrong id, expired
    │  ├─ AuthError                credential missing, wrong or expired
    │  └─ ForbiddenError           known, but not allowed to do this
    ├─ StoreError
    │  ├─ NotFoundError
    │  ├─ ConflictError
    │  └─ NoSpaceError             the disk is full, or a bound was reached
    └─ DownloadError               transfer broke off; can be resumed

Each class has a stable ``code`` (listed in ``sdk/spec/ERRORS.md``), says whether the same call may be repeated
(``retryable``), and carries a ``hint``: what the person at the console can do. Values travel as attributes
(``FrameTooLargeError(size_bytes=..., limit_bytes=...)``), not only in the text.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AimassError(Exception):
    """Root of all errors of AI Mass.

    Args:
        message: one sentence saying what went wrong, for a person.
        hint: what to do next; the class's default hint when left out.
        retryable: overrides the class's answer, where a single case differs.
        details: values worth having in a program (sizes, names, limits); readable as attributes.
    """

    code: ClassVar[str] = "internal"
    default_retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.retryable = self.default_retryable if retryable is None else retryable
        self.details = details

    def __getattr__(self, name: str) -> Any:
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    def as_dict(self) -> dict[str, Any]:
        """The error as plain values, for JSON answers and logs."""
        out: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.hint:
            out["hint"] = self.hint
        if self.details:
            out["details"] = {k: v for k, v in self.details.items() if isinstance(v, str | int | float | bool | list)}
        return out


class ConfigError(AimassError):
    """A setting is missing or makes no sense."""

    code = "config"
    default_hint = "correct the setting named in the message and start again"


class WireError(AimassError):
    """Bytes from outside are not a message of ours."""

    code = "wire"
    default_hint = "the sender's version or encoding is wrong; see sdk/spec/WIRE.md"


class FrameError(WireError):
    """Preamble, declared lengths or JSON header are broken."""

    code = "wire.frame"


class FrameTooLargeError(WireError):
    """A declared or real size is above the limit."""

    code = "wire.too_large"
    default_hint = "send less at once, or raise the limit on both sides"


class TensorError(WireError):
    """A tensor's name, datatype, shape and data do not fit together."""

    code = "wire.tensor"


class UnsupportedWireVersionError(WireError):
    """The frame's version byte is one we do not speak."""

    code = "wire.version"
    default_hint = "update the older of the two sides"


class TrustError(AimassError):
    """Something signed does not hold. Never retried: the same bytes fail again."""

    code = "trust"
    default_hint = "check who published this and with which key"


class SignatureError(TrustError):
    """Unsigned, wrongly signed, or signed by a key that is not pinned here."""

    code = "trust.signature"


class DigestMismatchError(TrustError):
    """Bytes differ from the digest that was signed."""

    code = "trust.digest"
    default_hint = "the file was damaged or changed on its way; it will be fetched again"


class RollbackError(TrustError):
    """Older than what was already accepted: a replay, or a server restored without a new epoch."""

    code = "trust.rollback"


class ExpiredError(TrustError):
    """Valid once, not any more (or not yet)."""

    code = "trust.expired"
    default_hint = "check the clock of both sides, then renew"


class PackageError(AimassError):
    """A manifest that does not say what it must."""

    code = "package"
    default_hint = "build the package again; sdk/spec/MANIFEST.md lists the fields"


class ModelError(AimassError):
    """Something about a model; see the subclasses."""

    code = "model"


class ModelNotFoundError(ModelError):
    """No such model, version or alias here."""

    code = "model.not_found"
    default_hint = "list what is here with 'aimass model list' or 'aimass-edge status'"


class ModelInvalidError(ModelError):
    """Not a usable model file: not ONNX, broken, cut off, too large, or reaching outside its folder."""

    code = "model.invalid"
    default_hint = "export the model again and check it with onnx.checker"


class ModelLoadError(ModelError):
    """The engine refused to load it."""

    code = "model.load"


class GoldenMismatchError(ModelError):
    """Loaded, but answers differently from the golden vectors in its package."""

    code = "model.golden"
    default_hint = "this engine computes something else on this hardware; another variant or engine is needed"


class EngineMissingError(ModelError):
    """The engine or execution provider asked for is not on this machine."""

    code = "engine.missing"


class EngineRunError(ModelError):
    """The engine failed while running a loaded model."""

    code = "engine.run"


class InputError(AimassError):
    """The caller's tensors do not fit the model: name, datatype or shape."""

    code = "input"
    default_hint = "compare with the model's inputs: client.model(name).inputs"


class OverloadError(AimassError):
    """Refused at once because the queue is full or a quota is reached."""

    code = "overload"
    default_retryable = True
    default_hint = "try again after a moment, or ask less"


class DeadlineError(AimassError):
    """The deadline passed, or can no longer be met."""

    code = "deadline"
    default_hint = "give more time, or a smaller model"


class CancelledError(AimassError):
    """The caller went away or took the request back."""

    code = "cancelled"


class TransportError(AimassError):
    """The link to the broker; see the subclasses."""

    code = "transport"
    default_retryable = True


class ConnectError(TransportError):
    """The broker cannot be reached, or refused us at the TLS or MQTT handshake."""

    code = "transport.connect"
    default_hint = "run 'aimass-edge check': it names address, certificate and clock problems one by one"


class LinkDownError(TransportError):
    """Not connected now; the transport is reconnecting by itself."""

    code = "transport.down"


class NobodyListensError(TransportError):
    """No dispatcher is subscribed for this pool (MQTT reason code 0x10)."""

    code = "transport.nobody"
    default_hint = "start a worker: aimass-cloud worker"


class RefusedError(TransportError):
    """The broker refused the operation (not authorised, quota exceeded, packet too large)."""

    code = "transport.refused"
    default_retryable = False


class RemoteError(TransportError):
    """The other side answered with an error; ``remote_code`` says which."""

    code = "transport.remote"
    default_retryable = False


class IdentityError(AimassError):
    """Who somebody is; see the subclasses."""

    code = "identity"


class EnrolError(IdentityError):
    """The enrol-token is unknown, expired, for another id, or was used by another key."""

    code = "identity.enrol"
    default_hint = "make a new one in the cloud: aimass-cloud enrol-token ID"


class AuthError(IdentityError):
    """The credential is missing, wrong or expired."""

    code = "identity.auth"
    default_hint = "give a valid api-key (people, programs) or device token (devices)"


class ForbiddenError(IdentityError):
    """Known, but not allowed to do this."""

    code = "identity.forbidden"


class StoreError(AimassError):
    """Kept state; see the subclasses."""

    code = "store"


class NotFoundError(StoreError):
    """No such thing is kept here."""

    code = "store.not_found"


class ConflictError(StoreError):
    """It exists already, or changed in between."""

    code = "store.conflict"


class NoSpaceError(StoreError):
    """The disk is full, or a configured bound was reached. Nothing half-written is left."""

    code = "store.no_space"
    default_retryable = True
    default_hint = "free disk space or raise the bound"


class DownloadError(AimassError):
    """A transfer broke off; what arrived is kept and resumed."""

    code = "download"
    default_retryable = True
