"""Errors of the agent keep their class on the way to the caller."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aimass.client.http import Reply
from aimass.client.remote_errors import error_from
from aimass.errors import AimassError, DeadlineError, InputError, NoSpaceError, RemoteError
from aimass.wire.messages import ErrorReply
from aimass.wire.oip import encode_error


@pytest.mark.parametrize("cls", [InputError, DeadlineError, NoSpaceError, AimassError])
def test_the_class_message_and_hint_come_through(cls: type[AimassError]) -> None:
    sent = cls("what went wrong", hint="what to do")
    got = error_from(Reply(400, {}, encode_error(ErrorReply.from_error(sent))))
    assert (type(got), got.message, got.hint, got.retryable) == (cls, sent.message, sent.hint, sent.retryable)


def test_a_code_of_a_newer_agent_is_kept_as_it_is() -> None:
    body = json.dumps({"error": "x", "parameters": {"code": "brand.new", "retryable": True}}).encode()
    got = error_from(Reply(500, {}, body))
    assert isinstance(got, RemoteError)
    assert (got.remote_code, got.retryable) == ("brand.new", True)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"error": "x", "parameters": 3}', b'"text"'])
def test_what_is_no_error_object_is_still_an_error_of_ours(body: bytes) -> None:
    got: Any = error_from(Reply(502, {}, body))
    assert isinstance(got, RemoteError)
    assert "502" in got.message
