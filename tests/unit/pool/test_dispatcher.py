import json
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from aimass.errors import AimassError, ModelNotFoundError, OverloadError
from aimass.placement.policy import Mode
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.transport import Message
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.wire import topics
from aimass.wire.frame import pack_request, unpack_reply
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.tensor import Tensor
from aimass_cloud.pool.dispatcher import Dispatcher, DispatcherSettings
from tests.fakes.waiting import until


class FakeRuntime:
    """Keeps what is submitted; the test decides when and how it ends."""

    def __init__(self) -> None:
        self.submitted: list[tuple[InferRequest, float | None, Mode]] = []
        self.futures: list[Future[Answer]] = []
        self.refuse: AimassError | None = None
        self.loaded: list[ModelInfo] = []

    def submit(
        self, request: InferRequest, *, deadline_s: float | None = None, mode: Mode = Mode.AUTO
    ) -> Future[Answer]:
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append((request, deadline_s, mode))
        self.futures.append(Future())
        return self.futures[-1]

    def models(self) -> list[ModelInfo]:
        return self.loaded

    def answer(self, n: int = 0, size: int = 4, **more: bool) -> None:
        outputs = {"y": np.ones(size, np.float32)}
        self.futures[n].set_result(Answer(outputs, "digits", "3", "cloud", timings_ms={"total": 1.0}, **more))


class Requester:
    """Publishes requests as a device does and keeps the replies."""

    def __init__(self, broker: MemoryBroker, identity: str = "gw-1") -> None:
        self.transport = MemoryTransport(broker, identity)
        self.messages: list[Message] = []
        self.transport.subscribe(topics.reply(identity, "infer"), self.messages.append)
        self.transport.start()
        until(lambda: self.transport.connected)

    def ask(self, correlation: bytes | None = b"c" * 16, *, payload: bytes | None = None, **parameters: object) -> None:
        request = InferRequest(
            "digits", (Tensor.from_array("x", np.zeros(3, np.float32)),), id="r1", parameters=parameters
        )
        topic = topics.infer_request("default", self.transport.identity)
        frame = pack_request(request) if payload is None else payload
        self.transport.publish(topic, frame, qos=1, correlation=correlation).wait(5)

    def reply(self) -> InferResponse | ErrorReply:
        until(lambda: self.messages)
        return unpack_reply(self.messages[-1].payload)

    def error(self) -> ErrorReply:
        reply = self.reply()
        assert isinstance(reply, ErrorReply)
        return reply


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(max_packet_bytes=50_000)


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dispatcher(broker: MemoryBroker, runtime: FakeRuntime, clock: Clock) -> Iterator[Dispatcher]:
    transport = MemoryTransport(broker, "svc:worker-0")
    dispatcher = Dispatcher(transport, runtime, settings=DispatcherSettings(max_pending=2), clock=clock)
    dispatcher.start()
    transport.start()
    until(lambda: transport.connected)
    yield dispatcher
    transport.close(farewell=dispatcher.farewell())


@pytest.fixture
def device(broker: MemoryBroker, dispatcher: Dispatcher) -> Iterator[Requester]:
    device = Requester(broker)
    yield device
    device.transport.close()


def submitted(runtime: FakeRuntime, n: int = 1) -> None:
    until(lambda: len(runtime.submitted) == n)


def test_answers_on_the_topic_derived_from_the_request(device: Requester, runtime: FakeRuntime) -> None:
    device.ask(timeout=500_000)
    submitted(runtime)
    request, deadline_s, mode = runtime.submitted[0]
    assert (request.model, deadline_s, mode) == ("digits", 0.5, Mode.EDGE)
    runtime.answer()
    reply = device.reply()
    assert isinstance(reply, InferResponse)
    assert (reply.id, reply.version, reply.parameters["served_by"]) == ("r1", "3", "cloud")
    assert reply.parameters["t_total_us"] == 1000
    assert device.messages[0].correlation == b"c" * 16
    assert device.messages[0].topic == "aimass/v1/d/gw-1/rsp/infer"


def test_each_device_gets_its_own_answer(broker: MemoryBroker, device: Requester, runtime: FakeRuntime) -> None:
    other = Requester(broker, "gw-2:app")
    device.ask(b"same-correlation")
    other.ask(b"same-correlation")
    submitted(runtime, 2)
    runtime.answer(1)
    until(lambda: other.messages)
    assert device.messages == []
    other.transport.close()


def test_garbage_is_answered_with_a_small_error(device: Requester, runtime: FakeRuntime) -> None:
    device.ask(payload=b"not a frame of ours")
    assert device.error().code == "wire.frame"
    assert runtime.submitted == []


@pytest.mark.parametrize("timeout", ["soon", True])
def test_a_timeout_that_is_no_number_is_the_callers_mistake(device: Requester, timeout: object) -> None:
    device.ask(timeout=timeout)
    assert device.error().code in ("input", "wire.frame")


def test_what_arrives_without_time_is_refused(device: Requester, runtime: FakeRuntime) -> None:
    device.ask(timeout=0)
    assert device.error().code == "deadline"
    assert runtime.submitted == []


def test_a_late_answer_is_not_sent(device: Requester, runtime: FakeRuntime, clock: Clock) -> None:
    device.ask(timeout=500_000)
    submitted(runtime)
    clock.now += 0.6
    runtime.answer()
    assert device.error().code == "deadline"


def test_errors_of_the_runtime_are_answered_by_their_codes(device: Requester, runtime: FakeRuntime) -> None:
    runtime.refuse = ModelNotFoundError("no model digits here")
    device.ask()
    assert device.error().code == "model.not_found"
    runtime.refuse = OverloadError("queue full")
    device.ask()
    until(lambda: len(device.messages) == 2)
    assert device.error() == ErrorReply("queue full", "overload", True, OverloadError.default_hint)


def test_an_unforeseen_failure_is_answered_without_its_details(device: Requester, runtime: FakeRuntime) -> None:
    device.ask()
    submitted(runtime)
    runtime.futures[0].set_exception(RuntimeError("secret detail"))
    assert device.error().code == "internal"
    assert "secret" not in device.error().message


def test_too_many_requests_are_refused_at_once(device: Requester, runtime: FakeRuntime, dispatcher: Dispatcher) -> None:
    for i in range(3):
        device.ask(bytes([i]) * 16)
    assert device.error().code == "overload"
    assert dispatcher.counts()["in_work"] == 2


def test_the_same_request_twice_is_done_once_while_it_is_in_work(
    device: Requester, runtime: FakeRuntime, dispatcher: Dispatcher
) -> None:
    device.ask()
    device.ask()
    until(lambda: dispatcher.counts().get("duplicates") == 1)
    runtime.answer()
    device.reply()
    assert len(runtime.submitted) == 1
    device.ask()
    submitted(runtime, 2)


def test_an_answer_above_the_requesters_limit_becomes_an_error(device: Requester, runtime: FakeRuntime) -> None:
    device.ask(max_answer_bytes=1000)
    submitted(runtime)
    runtime.answer(size=1000)
    assert device.error().code == "wire.too_large"


def test_an_answer_above_the_brokers_limit_becomes_an_error(device: Requester, runtime: FakeRuntime) -> None:
    device.ask(max_answer_bytes=10_000_000)
    submitted(runtime)
    runtime.answer(size=20_000)
    assert device.error().code == "wire.too_large"


def test_requests_that_cannot_be_answered_are_counted(
    device: Requester, runtime: FakeRuntime, dispatcher: Dispatcher
) -> None:
    device.ask(None)
    until(lambda: dispatcher.counts().get("dropped") == 1)
    assert runtime.submitted == []
    assert device.messages == []


def test_a_reply_to_a_device_that_left_is_counted(
    device: Requester, runtime: FakeRuntime, dispatcher: Dispatcher
) -> None:
    device.ask()
    submitted(runtime)
    device.transport.close()
    runtime.answer()
    until(lambda: dispatcher.counts().get("replies_lost") == 1)
    assert dispatcher.counts()["in_work"] == 0


def state(broker: MemoryBroker) -> dict[str, object]:
    payload = broker.retained("aimass/v1/cloud/state/svc:worker-0")
    assert payload is not None
    return json.loads(payload)


def test_the_pools_state_is_retained_and_published_on_changes_only(
    broker: MemoryBroker, dispatcher: Dispatcher, runtime: FakeRuntime, device: Requester
) -> None:
    heard: list[bytes] = []
    device.transport.subscribe("aimass/v1/cloud/state/+", lambda m: heard.append(m.payload))
    until(lambda: heard)
    assert state(broker) == {"node": "svc:worker-0", "pool": "default", "models": [], "state": "serving"}
    dispatcher.announce()
    runtime.loaded = [ModelInfo("digits", 3, (), (), "onnxruntime", "CPU", "fp32")]
    dispatcher.announce()
    until(lambda: len(heard) == 2)
    assert state(broker)["models"] == [{"name": "digits", "version": 3}]


def test_after_the_broker_forgot_everything_the_state_is_published_again(
    broker: MemoryBroker, dispatcher: Dispatcher
) -> None:
    broker.kill()
    assert broker.retained("aimass/v1/cloud/state/svc:worker-0") is None
    broker.revive()
    until(lambda: broker.retained("aimass/v1/cloud/state/svc:worker-0"))


def test_a_dispatcher_that_may_not_serve_its_pool_says_so(
    runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    share = topics.infer_share("north")
    broker = MemoryBroker(deny=lambda _, action, topic: (action, topic) == ("subscribe", share))
    transport = MemoryTransport(broker, "svc:worker-0")
    Dispatcher(transport, runtime, pool="north").start()
    transport.start()
    until(lambda: broker.retained(topics.cloud_state("svc:worker-0")) is not None)
    assert state(broker)["state"] == "refused"
    assert "svc:worker-0 may not answer for pool north" in caplog.text
    transport.close()


def test_draining_finishes_what_is_in_work_and_takes_nothing_new(
    broker: MemoryBroker, device: Requester, runtime: FakeRuntime, dispatcher: Dispatcher
) -> None:
    device.ask()
    submitted(runtime)
    assert not dispatcher.drain(0.05)
    assert state(broker)["state"] == "draining"
    runtime.answer()
    assert dispatcher.drain(1.0)
    device.reply()


def test_the_farewell_says_stopped(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    topic, payload = dispatcher.farewell()
    assert topic == "aimass/v1/cloud/state/svc:worker-0"
    assert json.loads(payload)["state"] == "stopped"
