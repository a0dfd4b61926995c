"""Every exception of boto3's family becomes one of our errors, and says what to do."""

from collections.abc import Iterator

import boto3.exceptions
import botocore.exceptions
import pytest
from botocore.exceptions import ClientError

from aimass.errors import AimassError, ConfigError, NoSpaceError, NotFoundError, StoreError
from aimass_cloud.blobs.s3 import S3Place
from aimass_cloud.blobs.s3_errors import errors_are_ours, to_our_error


def family(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        yield from family(kind)


FOREIGN = sorted(
    {*family(botocore.exceptions.BotoCoreError), *family(boto3.exceptions.Boto3Error)}, key=lambda kind: kind.__name__
)


def refused(code: str, status: int = 400, message: str = "the reason") -> ClientError:
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "RequestId": "",
            "HostId": "",
            "HTTPHeaders": {},
            "RetryAttempts": 0,
        },
    }
    return ClientError(response, "PutObject")


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.__name__)
def test_no_exception_of_the_library_is_unmapped(kind: type[Exception]) -> None:
    ours = to_our_error(kind.__new__(kind), "storing")
    assert isinstance(ours, StoreError | ConfigError)
    assert ours.message.startswith("storing")


@pytest.mark.parametrize(
    ("code", "status", "kind", "is_retryable"),
    [
        ("NoSuchKey", 404, NotFoundError, False),
        ("404", 404, NotFoundError, False),
        ("NoSuchBucket", 404, ConfigError, False),
        ("AccessDenied", 403, ConfigError, False),
        ("403", 403, ConfigError, False),
        ("SignatureDoesNotMatch", 403, ConfigError, False),
        ("RequestTimeTooSkewed", 403, ConfigError, False),
        ("SlowDown", 503, StoreError, True),
        ("InternalError", 500, StoreError, True),
        ("TooManyRequests", 429, StoreError, True),
        ("XMinioStorageFull", 507, NoSpaceError, True),
        ("BadDigest", 400, StoreError, False),
        ("SomethingNew", 400, StoreError, False),
    ],
)
def test_a_refusal_says_whose_fault_it_is(code: str, status: int, kind: type[AimassError], is_retryable: bool) -> None:
    ours = to_our_error(refused(code, status), "put object")
    assert type(ours) is kind
    assert ours.retryable is is_retryable


def test_an_unreachable_server_may_be_asked_again() -> None:
    ours = to_our_error(botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), "put object")
    assert isinstance(ours, StoreError)
    assert ours.retryable


def test_exceptions_of_others_pass_untouched() -> None:
    for kind in (ValueError, ConnectionResetError, MemoryError):
        with pytest.raises(kind), errors_are_ours("storing"):
            raise kind


def test_a_secret_is_not_printed() -> None:
    assert "hidden" not in repr(S3Place(bucket="b", access_key_id="id", secret_access_key="hidden"))
