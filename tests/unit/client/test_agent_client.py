"""How the client of the agent spends its time when the agent is away, slow or restarted; clock and agent are fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimass.client.agent import AgentClient
from aimass.client.http import Reply
from aimass.errors import AimassError, ConnectError, DeadlineError, OverloadError
from aimass.runtime.answer import Answer
from aimass.wire.messages import ErrorReply
from aimass.wire.oip import encode_error, encode_response

X = {"x": np.array([[1.0, 2.0]], np.float32)}
Step = Callable[["FakePool"], Reply]


def answered(pool: FakePool) -> Reply:
    response = Answer({"y": X["x"]}, "m", "1").to_response()
    header, parts = encode_response(response)
    return Reply(200, {"inference-header-content-length": str(len(header))}, header + b"".join(parts))


def away(pool: FakePool) -> Reply:
    pool.now += 0.01
    raise ConnectError("no agent listens")


def cut_off(pool: FakePool) -> Reply:
    pool.now += 0.01
    raise ConnectError("it went away during the call")


def too_slow(pool: FakePool) -> Reply:
    pool.now += pool.calls[-1]["timeout_s"]
    raise DeadlineError("the agent did not answer")


def refused(error: AimassError) -> Step:
    return lambda pool: Reply(400, {}, encode_error(ErrorReply.from_error(error)))


class FakePool:
    """Plays the agent step by step; the last step goes on for ever."""

    def __init__(self, *steps: Step, was_answered: bool = True) -> None:
        self.steps, self.was_answered, self.now = list(steps), was_answered, 100.0
        self.calls: list[dict[str, Any]] = []

    def request(self, method: str, path: str, **how: Any) -> Reply:
        self.calls.append({"method": method, "path": path, **how})
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step(self)

    def close(self) -> None:
        """Nothing to close."""


def client_of(pool: FakePool) -> AgentClient:
    def clock() -> float:
        pool.now += 0.001  # time goes on by itself, so that nothing waits for ever
        return pool.now

    client = AgentClient(Path("/nowhere"), deadline_ms=500, io_margin_ms=100, clock=clock)
    client._pool = pool  # type: ignore[assignment]
    return client


def header_of(call: dict[str, Any]) -> Any:
    return json.loads(bytes(call["parts"][0]))


def test_the_agent_is_told_what_remains_and_the_socket_gets_a_margin() -> None:
    pool = FakePool(answered)
    assert client_of(pool).infer("m", X).version == "1"
    (call,) = pool.calls
    assert 0.49e6 < header_of(call)["parameters"]["timeout"] < 0.5e6
    assert 0.59 < call["timeout_s"] < 0.6


def test_a_restarted_agent_is_waited_for_and_told_the_smaller_rest() -> None:
    pool = FakePool(away, away, answered)
    assert client_of(pool).infer("m", X).version == "1"
    told = [header_of(call)["parameters"]["timeout"] for call in pool.calls]
    assert told == sorted(told, reverse=True)
    assert len(set(told)) == 3


def test_an_agent_that_stays_away_is_a_connect_error_when_time_is_over() -> None:
    pool = FakePool(away)
    with pytest.raises(ConnectError):
        client_of(pool).infer("m", X)
    assert 100.45 < pool.now < 100.6


def test_an_agent_that_never_answered_is_not_waited_for() -> None:
    pool = FakePool(away, was_answered=False)
    with pytest.raises(ConnectError):
        client_of(pool).infer("m", X)
    assert len(pool.calls) == 1


@pytest.mark.parametrize("last", [too_slow, refused(DeadlineError("too late"))])
def test_time_lost_to_a_restart_is_told_as_such(last: Step) -> None:
    with pytest.raises(ConnectError):
        client_of(FakePool(away, last)).infer("m", X)


@pytest.mark.parametrize("last", [too_slow, refused(DeadlineError("too late"))])
def test_time_lost_otherwise_is_a_deadline_error(last: Step) -> None:
    with pytest.raises(DeadlineError):
        client_of(FakePool(last)).infer("m", X)


def test_overload_is_told_at_once() -> None:
    pool = FakePool(refused(OverloadError("full")))
    with pytest.raises(OverloadError):
        client_of(pool).infer("m", X)
    assert len(pool.calls) == 1


def test_a_record_keeps_its_id_when_it_is_sent_again_and_no_two_share_one() -> None:
    pool = FakePool(away, cut_off, lambda _: Reply(200, {}, b'{"seq": 7}'))
    client = client_of(pool)
    assert [client.record("s", {"n": 1}), client.record("s", {"n": 1})] == [7, 7]
    ids = [json.loads(b"".join(call["parts"]))["id"] for call in pool.calls]
    assert len(ids) == 4
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]


def test_names_in_paths_are_quoted() -> None:
    pool = FakePool(answered)
    client_of(pool).infer("a/b c", X, version="3")
    assert pool.calls[0]["path"] == "/v2/models/a%2Fb%20c/versions/3/infer"
