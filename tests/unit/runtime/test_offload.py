import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from aimass.errors import (
    CancelledError,
    DeadlineError,
    FrameTooLargeError,
    LinkDownError,
    NobodyListensError,
    OverloadError,
    RefusedError,
    RemoteError,
    WireError,
)
from aimass.runtime.offload import MqttCall, MqttRemote
from aimass.transport import Message
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.wire import topics
from aimass.wire.frame import pack_error, pack_response, unpack_request
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.tensor import Tensor
from tests.fakes.waiting import until

REQUEST = InferRequest("digits", (Tensor.from_array("x", np.arange(4, dtype=np.float32)),), id="mine")


class Pool:
    """Answers with what the test says; keeps what it was asked."""

    def __init__(self, broker: MemoryBroker, answer: Callable[[InferRequest], bytes | None]) -> None:
        self.asked: list[InferRequest] = []
        self.messages: list[Message] = []
        self.answer = answer
        self.transport = MemoryTransport(broker, "svc:worker-0")
        self.transport.subscribe(topics.infer_share("default"), self._on_request)
        self.transport.start()
        until(lambda: self.transport.connected)

    def _on_request(self, message: Message) -> None:
        self.messages.append(message)
        self.asked.append(unpack_request(message.payload))
        frame = self.answer(self.asked[-1])
        if frame is not None:
            self.send(frame, message.correlation)

    def send(self, frame: bytes, correlation: bytes | None) -> None:
        self.transport.publish(topics.reply("gw-1", "infer"), frame, qos=1, correlation=correlation)


def response(request: InferRequest) -> bytes:
    parameters = {"served_by": "cloud", "t_total_us": 5}
    return pack_response(InferResponse("digits", "3", request.inputs, request.id, parameters))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(deny=lambda identity, action, _topic: identity == "gw-9" and action == "publish")


@pytest.fixture
def transport(broker: MemoryBroker) -> Iterator[MemoryTransport]:
    transport = MemoryTransport(broker, "gw-1", max_incoming_bytes=10_000)
    yield transport
    transport.close()


@pytest.fixture
def remote(transport: MemoryTransport) -> Iterator[MqttRemote]:
    remote = MqttRemote(transport, max_calls=5)
    transport.start()
    until(lambda: remote.available)
    yield remote
    remote.close()


@pytest.fixture
def pool(broker: MemoryBroker) -> Iterator[Pool]:
    pool = Pool(broker, response)
    yield pool
    pool.transport.close()


def test_a_call_brings_the_answer_with_the_time_of_the_link(remote: MqttRemote, pool: Pool) -> None:
    answer = remote.start(REQUEST, 1.0).wait(5)
    assert answer is not None
    assert answer.id == "mine"
    assert answer.version == "3"
    np.testing.assert_array_equal(answer.outputs[0].data, np.arange(4, dtype=np.float32))
    assert answer.parameters["served_by"] == "cloud"
    assert 0 < answer.parameters["t_link_us"] < 1e6
    assert remote.counts() == {"answers": 1, "waiting": 0}


def test_a_request_says_how_long_it_waits_and_how_large_the_answer_may_be(remote: MqttRemote, pool: Pool) -> None:
    remote.start(REQUEST, 0.25).wait(5)
    parameters = pool.asked[0].parameters
    assert parameters["timeout"] == 250_000
    assert 9_000 < parameters["max_answer_bytes"] < 10_000
    assert pool.messages[0].topic == "aimass/v1/infer/default/gw-1/req"
    assert pool.messages[0].correlation is not None
    assert len(pool.messages[0].correlation) == 16


def test_an_error_reply_is_a_remote_error_with_its_code(remote: MqttRemote, pool: Pool) -> None:
    pool.answer = lambda _r: pack_error(ErrorReply("queue full", "overload", True, "wait"))
    call = remote.start(REQUEST, 1.0)
    with pytest.raises(RemoteError, match="queue full") as error:
        call.wait(5)
    assert error.value.remote_code == "overload"
    assert error.value.retryable


def test_a_garbage_answer_fails_that_call_only(remote: MqttRemote, pool: Pool) -> None:
    pool.answer = lambda r: os.urandom(50) if r.id == "bad" else None
    good = remote.start(REQUEST, 5.0)
    bad = remote.start(InferRequest("digits", REQUEST.inputs, id="bad"), 5.0)
    with pytest.raises(WireError):
        bad.wait(5)
    assert not good.done
    pool.send(response(REQUEST), good.correlation)
    good.wait(5)
    assert remote.counts()["garbage"] == 1


def test_duplicate_late_and_foreign_answers_are_dropped_and_counted(remote: MqttRemote, pool: Pool) -> None:
    call = remote.start(REQUEST, 1.0)
    call.wait(5)
    for correlation in (call.correlation, bytes(16), None):
        pool.send(response(REQUEST), correlation)
    until(lambda: remote.counts().get("late") == 3)
    assert call.result is not None


def test_when_nobody_listens_the_call_fails_at_once(remote: MqttRemote) -> None:
    with pytest.raises(NobodyListensError):
        remote.start(REQUEST, 10.0).wait(5)
    assert remote.counts()["waiting"] == 0


def test_when_the_broker_refuses_the_call_fails_at_once(broker: MemoryBroker, pool: Pool) -> None:
    transport = MemoryTransport(broker, "gw-9")
    remote = MqttRemote(transport)
    transport.start()
    until(lambda: remote.available)
    with pytest.raises(RefusedError):
        remote.start(REQUEST, 10.0).wait(5)
    transport.close()


def test_without_a_link_the_call_carries_the_error(transport: MemoryTransport) -> None:
    remote = MqttRemote(transport)
    assert not remote.available
    assert isinstance(remote.start(REQUEST, 1.0).error, LinkDownError)


def test_a_lost_link_fails_every_waiting_call_at_once(remote: MqttRemote, pool: Pool, broker: MemoryBroker) -> None:
    pool.answer = lambda _r: None
    calls = [remote.start(REQUEST, 60.0) for _ in range(3)]
    until(lambda: len(pool.asked) == 3)
    broker.drop("gw-1")
    for call in calls:
        with pytest.raises(LinkDownError):
            call.wait(5)
    until(lambda: remote.available)


def test_calls_are_bounded(remote: MqttRemote, pool: Pool) -> None:
    pool.answer = lambda _r: None
    calls = [remote.start(REQUEST, 60.0) for _ in range(5)]
    assert isinstance(remote.start(REQUEST, 60.0).error, OverloadError)
    calls[0].cancel()
    assert isinstance(calls[0].error, CancelledError)
    assert remote.start(REQUEST, 60.0).error is None


def test_a_request_above_the_brokers_limit_fails_here(broker: MemoryBroker, remote: MqttRemote, pool: Pool) -> None:
    large = InferRequest("digits", (Tensor.from_array("x", np.zeros(5_000_000, np.uint8)),))
    assert isinstance(remote.start(large, 1.0).error, FrameTooLargeError)
    assert remote.counts()["waiting"] == 0


def test_without_time_nothing_is_sent(remote: MqttRemote, pool: Pool) -> None:
    assert isinstance(remote.start(REQUEST, 0.0).error, DeadlineError)
    assert pool.asked == []


def test_a_call_that_nobody_takes_back_ends_with_its_time(remote: MqttRemote, pool: Pool) -> None:
    pool.answer = lambda _r: None
    call = remote.start(REQUEST, 0.05)
    with pytest.raises(DeadlineError, match="the cloud did not answer"):
        call.wait(5)
    assert remote.counts()["expired"] == 1


def test_asking_again_with_the_same_correlation_ends_both_with_one_answer(remote: MqttRemote, pool: Pool) -> None:
    pool.answer = lambda _r: None
    first = remote.start(REQUEST, 60.0)
    second = remote.start(REQUEST, 60.0, correlation=first.correlation)
    pool.send(response(REQUEST), first.correlation)
    assert second.wait(5) is first.wait(5) is not None


def test_a_refused_subscription_makes_it_unavailable() -> None:
    broker = MemoryBroker(deny=lambda _identity, action, _topic: action == "subscribe")
    transport = MemoryTransport(broker, "gw-1")
    remote = MqttRemote(transport)
    transport.start()
    until(lambda: transport.connected)
    until(transport.refusals)
    assert not remote.available
    transport.close()


def test_closing_ends_every_call(remote: MqttRemote, pool: Pool) -> None:
    pool.answer = lambda _r: None
    calls: list[MqttCall] = [remote.start(REQUEST, 60.0) for _ in range(2)]
    remote.close()
    assert all(isinstance(call.error, LinkDownError) for call in calls)
