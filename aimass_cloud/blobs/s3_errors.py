"""What goes wrong with S3, in our words. Knows boto3's exceptions by their class names, so as not to import them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aimass.errors import AimassError, ConfigError, NoSpaceError, NotFoundError, StoreError

_LIBRARIES = frozenset({"boto3", "botocore", "s3transfer"})
_UNREACHABLE = frozenset({"ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseStreamingError"})
_SETTINGS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "ConfigNotFound",
        "ConfigParseError",
        "NoRegionError",
        "ParamValidationError",
    }
)
CREATE_BUCKET = "create the bucket, or correct its name; AI Mass makes none by itself"
_CHECK_KEYS = "check the access key, its rights on the bucket (get, put, delete, list), and this machine's clock"
_HINTS = {
    "NoSuchBucket": CREATE_BUCKET,
    "InvalidBucketName": CREATE_BUCKET,
    "AccessDenied": _CHECK_KEYS,
    "403": _CHECK_KEYS,
    "InvalidAccessKeyId": _CHECK_KEYS,
    "SignatureDoesNotMatch": _CHECK_KEYS,
    "ExpiredToken": _CHECK_KEYS,
    "InvalidToken": _CHECK_KEYS,
    "RequestTimeTooSkewed": _CHECK_KEYS,
    "AuthorizationHeaderMalformed": "name the region that the bucket is in",
    "PermanentRedirect": "name the region that the bucket is in",
    "301": "name the region that the bucket is in",
}
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"})
_PASSING = frozenset({"SlowDown", "RequestTimeout", "Throttling", "OperationAborted", "TooManyRequests"})


@contextmanager
def errors_are_ours(doing: str) -> Iterator[None]:
    """What boto3 raises inside becomes one of our errors."""
    try:
        yield
    except Exception as exc:
        ours = to_our_error(exc, doing)
        if ours is None:
            raise
        raise ours from exc


def to_our_error(exc: Exception, doing: str) -> AimassError | None:
    """Our error for one of boto3's; None for an exception of somebody else.

    Args:
        exc: what was raised.
        doing: what was being done, for the message.
    """
    kinds = {kind.__name__ for kind in type(exc).__mro__ if kind.__module__.partition(".")[0] in _LIBRARIES}
    if not kinds:
        return None
    if "ClientError" in kinds:
        return _refusal(getattr(exc, "response", {}), doing)
    text = f"{doing}: {exc}"
    if kinds & _UNREACHABLE:
        return StoreError(text, retryable=True, hint="S3 cannot be reached or does not answer; check its address")
    if kinds & _SETTINGS:
        return ConfigError(text, hint=_CHECK_KEYS)
    return StoreError(text)


def _refusal(response: Mapping[str, Any], doing: str) -> AimassError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"S3 refused {doing}: {response.get('Error', {}).get('Message') or code} ({code})"
    if code in _ABSENT:
        return NotFoundError("no such blob in the bucket")
    if code in _HINTS:
        return ConfigError(text, hint=_HINTS[code], s3_code=code)
    if code in _FULL or status == 507:
        return NoSpaceError(text, s3_code=code)
    return StoreError(text, retryable=code in _PASSING or status == 429 or status >= 500, s3_code=code)
