"""Device and cloud in one request: who is asked, who answers, and what is said about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from aimass.engine import Arrays, Feeds
from aimass.errors import (
    AimassError,
    DeadlineError,
    EngineRunError,
    FrameTooLargeError,
    InputError,
    LinkDownError,
    ModelNotFoundError,
    NobodyListensError,
    OverloadError,
    RefusedError,
    RemoteError,
)
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.runtime import Runtime
from aimass.runtime.settings import RuntimeSettings
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Tensor
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import ask
from tests.fakes.remote import FakeRemote, Script, cloud_says, refuses, silent
from tests.fakes.waiting import until
from tests.unit.runtime.conftest import MakePackage, MakeRuntime

Infer = Callable[..., Answer]
CLOUD = {"mode": Mode.CLOUD}
CLOUD_FIRST = {"mode": Mode.CLOUD, "policy": Policy.SAVING}
BOTH = {"mode": Mode.CLOUD, "policy": Policy.NEVER_WORSE}
LINK_ERRORS = [
    LinkDownError("down"),
    NobodyListensError("0x10"),
    RefusedError("no"),
    OverloadError("too many in flight"),
    FrameTooLargeError("too large"),
    RemoteError("sick", remote_code="engine.run"),
]


class Site:
    """A device with one model (or none) and a cloud."""

    def __init__(self, runtime: Runtime, engine: FakeEngine, remote: FakeRemote) -> None:
        self.runtime = runtime
        self.engine = engine
        self.remote = remote

    @property
    def edge_runs(self) -> int:
        return len(self.engine.sessions[-1].runs) - self.warm_runs

    warm_runs = 0


@pytest.fixture
def site(runtime_of: MakeRuntime, package: MakePackage) -> Iterator[Callable[..., Site]]:
    made_sites: list[Site] = []

    def make(script: Script = silent, *, has_model: bool = True, engine: FakeEngine | None = None, **how: Any) -> Site:
        engine, remote = engine or FakeEngine(), FakeRemote(script)
        made = Site(runtime_of(engine, remote=remote, settings=RuntimeSettings(**how)), engine, remote)
        made_sites.append(made)
        if has_model:
            written = package()
            made.runtime.load(written.folder, written.manifest)
            made.warm_runs = len(engine.sessions[-1].runs)
        return made

    yield make
    for one in made_sites:
        for session in one.engine.sessions:
            session.gate.open()


@pytest.fixture(params=["infer", "submit"])
def infer(request: pytest.FixtureRequest) -> Callable[[Site], Infer]:
    """The same request on the caller's thread and through the queue: the rules are the same."""

    def way(site: Site) -> Infer:
        if request.param == "infer":
            return site.runtime.infer
        return lambda *args, **how: site.runtime.submit(*args, **how).result(10)

    return way


def value(answer: Answer) -> float:
    return float(answer.outputs["y"][0, 0])


def test_the_clouds_answer_says_that_it_is_the_clouds_and_what_its_way_took(site: Any, infer: Any) -> None:
    it = site(cloud_says())
    answer = infer(it)(ask(id="mine"), **CLOUD_FIRST)
    assert value(answer) == 1001
    assert (answer.served_by, answer.version, answer.engine) == ("cloud", "7", "cloud engine")
    assert (answer.degraded, answer.late) == (False, False)
    assert set(answer.timings_ms) == {"compute", "total", "link"}
    assert answer.timings_ms["link"] <= answer.timings_ms["total"]
    assert it.edge_runs == 0
    found = it.runtime.metrics.snapshot()
    assert (found["offloaded"], found["fallbacks"]) == (1, 0)
    assert found["models"]["model"]["served_by"] == {"cloud": 1}


def test_edge_mode_never_asks_the_cloud(site: Any, infer: Any) -> None:
    it = site(cloud_says())
    assert value(infer(it)(ask(), mode=Mode.EDGE)) == 2
    assert it.remote.calls == []


def test_auto_mode_asks_the_cloud_only_when_the_model_is_not_here(site: Any, infer: Any) -> None:
    here, there = site(cloud_says()), site(cloud_says(), has_model=False)
    assert infer(here)(ask()).served_by == "edge"
    assert infer(there)(ask()).served_by == "cloud"
    assert (len(here.remote.calls), len(there.remote.calls)) == (0, 1)


def test_inputs_are_checked_before_the_cloud_is_asked(site: Any, infer: Any) -> None:
    it = site(cloud_says())
    with pytest.raises(InputError):
        infer(it)(ask([[1, 2, 3]]), **CLOUD)
    assert it.remote.calls == []


def test_the_cloud_is_told_how_much_time_is_left(site: Any, infer: Any) -> None:
    it = site(cloud_says())
    infer(it)(ask(), deadline_s=0.5, **CLOUD)
    assert 0.4 < it.remote.calls[0].remaining_s <= 0.5


@pytest.mark.parametrize("error", LINK_ERRORS, ids=lambda error: error.code)
@pytest.mark.parametrize("policy", Policy)
def test_when_the_cloud_cannot_the_device_answers_at_once_and_says_so(
    site: Any, infer: Any, error: AimassError, policy: Policy
) -> None:
    it = site(refuses(error))
    begun = time.monotonic()
    answer = infer(it)(ask(), deadline_s=10, mode=Mode.CLOUD, policy=policy)
    assert time.monotonic() - begun < 2
    assert value(answer) == 2
    assert (answer.served_by, answer.degraded) == ("edge", True)
    assert it.runtime.metrics.snapshot()["fallbacks"] == 1


def test_without_a_link_the_device_answers_and_nothing_is_sent(site: Any, infer: Any) -> None:
    it = site(cloud_says())
    it.remote.available = False
    answer = infer(it)(ask(), **CLOUD)
    assert (answer.served_by, answer.degraded) == ("edge", True)
    assert it.remote.calls == []


def test_saving_waits_for_the_cloud_as_long_as_the_deadline_allows(site: Any, infer: Any) -> None:
    it = site(silent, margin_s=0.5)
    begun = time.monotonic()
    answer = infer(it)(ask(), deadline_s=0.8, **CLOUD_FIRST)
    assert time.monotonic() - begun > 0.2
    assert (answer.served_by, answer.degraded, answer.late) == ("edge", True, False)


def test_saving_takes_an_answer_that_comes_while_it_waits(site: Any, infer: Any) -> None:
    it = site(silent)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer(it), ask(), deadline_s=10, **CLOUD_FIRST)
        until(lambda: it.remote.calls, "the call")
        it.remote.calls[0].end(cloud_says()(it.remote.calls[0].request))
        assert value(waiting.result(5)) == 1001
    assert it.edge_runs == 0


def test_saving_begins_the_device_at_once_when_the_cloud_fails_while_it_waits(site: Any, infer: Any) -> None:
    it = site(silent)
    with ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        waiting = pool.submit(infer(it), ask(), deadline_s=10, **CLOUD_FIRST)
        until(lambda: it.remote.calls, "the call")
        it.remote.calls[0].end(LinkDownError("lost"))
        answer = waiting.result(5)
    assert time.monotonic() - begun < 2
    assert (value(answer), answer.degraded) == (2, True)


@pytest.mark.parametrize("how", [CLOUD_FIRST, BOTH], ids=["saving", "never worse"])
def test_an_answer_of_the_cloud_stops_the_devices_run(site: Any, infer: Any, how: dict[str, Any]) -> None:
    it = site(silent, margin_s=0.45)
    it.engine.gate.shut()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer(it), ask(), deadline_s=0.5, **how)
        until(lambda: it.engine.gate.waiting == 1, "the device's run")
        it.remote.calls[0].end(cloud_says()(it.remote.calls[0].request))
        answer = waiting.result(5)
    assert (value(answer), answer.served_by, answer.degraded) == (1001, "cloud", False)
    until(lambda: it.engine.gate.waiting == 0, "the device's run to stop")


def test_never_worse_answers_as_soon_as_the_device_has_and_does_not_call_that_degraded(site: Any, infer: Any) -> None:
    it = site(silent)
    answer = infer(it)(ask(), deadline_s=10, **BOTH)
    assert (value(answer), answer.served_by, answer.degraded) == (2, "edge", False)
    assert answer.timings_ms["total"] < 1000
    assert it.runtime.metrics.snapshot()["fallbacks"] == 0
    assert not it.remote.calls[0].cancelled  # it goes on, to tell how the link is


def test_never_worse_takes_the_clouds_answer_when_it_was_there_first(site: Any, infer: Any) -> None:
    assert value(infer(site(cloud_says()))(ask(), **BOTH)) == 1001


def failing(_: Feeds) -> Arrays:
    raise EngineRunError("the device is sick")


@pytest.mark.parametrize("how", [CLOUD_FIRST, BOTH], ids=["saving", "never worse"])
def test_when_the_device_fails_the_cloud_is_waited_for(site: Any, infer: Any, how: dict[str, Any]) -> None:
    it = site(silent, margin_s=0.4)
    it.engine.compute = failing
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer(it), ask(), deadline_s=0.5, **how)
        until(lambda: it.edge_runs == 1, "the device's run")
        it.remote.calls[0].end(cloud_says()(it.remote.calls[0].request))
        assert value(waiting.result(5)) == 1001


@pytest.mark.parametrize("how", [CLOUD_FIRST, BOTH], ids=["saving", "never worse"])
def test_when_both_fail_the_error_is_named(site: Any, infer: Any, how: dict[str, Any]) -> None:
    it = site(refuses(LinkDownError("down")))
    it.engine.compute = failing
    with pytest.raises(EngineRunError, match="sick"):
        infer(it)(ask(), **how)
    assert it.runtime.metrics.snapshot()["models"]["model"]["errors"] == {"engine.run": 1}


def test_without_the_model_here_the_clouds_error_is_given(site: Any, infer: Any) -> None:
    for error in LINK_ERRORS:
        with pytest.raises(type(error)):
            infer(site(refuses(error), has_model=False))(ask())


def test_without_model_and_link_says_so_at_once(site: Any, infer: Any) -> None:
    it = site(cloud_says(), has_model=False)
    it.remote.available = False
    with pytest.raises(LinkDownError, match="not on this device"):
        infer(it)(ask())
    with pytest.raises(ModelNotFoundError):
        infer(it)(ask(), mode=Mode.EDGE)


def test_without_the_model_here_a_silent_cloud_is_given_up_at_the_deadline(site: Any, infer: Any) -> None:
    it = site(silent, has_model=False)
    begun = time.monotonic()
    with pytest.raises(DeadlineError):
        infer(it)(ask(), deadline_s=0.1)
    assert 0.1 <= time.monotonic() - begun < 2
    assert all(call.cancelled for call in it.remote.calls)


def test_a_silent_cloud_that_alone_could_answer_is_asked_once_more_with_the_same_id(site: Any, infer: Any) -> None:
    it = site(silent, has_model=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer(it), ask(), deadline_s=0.6)
        until(lambda: len(it.remote.calls) == 2, "the second call")
        first, second = it.remote.calls
        assert first.correlation == second.correlation
        assert second.remaining_s < 0.35
        second.end(cloud_says()(second.request))
        assert value(waiting.result(5)) == 1001
    assert len(it.remote.calls) == 2


def test_a_pool_that_refuses_but_may_be_asked_again_is_asked_again_at_once(site: Any, infer: Any) -> None:
    it = site(refuses(RemoteError("busy", retryable=True, remote_code="overload")), has_model=False)
    with pytest.raises(RemoteError, match="busy"):
        infer(it)(ask(), deadline_s=5)
    assert len(it.remote.calls) == 2


@pytest.mark.parametrize(
    "error", [RemoteError("bad input", remote_code="input"), LinkDownError("down")], ids=["final", "link"]
)
def test_the_cloud_is_not_asked_again_where_that_cannot_help(site: Any, infer: Any, error: AimassError) -> None:
    it = site(refuses(error), has_model=False)
    with pytest.raises(type(error)):
        infer(it)(ask(), deadline_s=5)
    assert len(it.remote.calls) == 1


def test_with_the_model_here_nothing_is_sent_twice(site: Any, infer: Any) -> None:
    it = site(silent)
    infer(it)(ask(), deadline_s=0.1, **CLOUD_FIRST)
    assert len(it.remote.calls) == 1


def test_an_answer_that_lacks_an_output_is_not_one(site: Any, infer: Any) -> None:
    def other(request: InferRequest) -> InferResponse:
        return InferResponse(request.model, "1", (Tensor.from_array("z", np.zeros(1, np.float32)),))

    assert infer(site(other))(ask(), **CLOUD).served_by == "edge"
    with pytest.raises(RemoteError, match="'y'"):
        infer(site(other, has_model=False))(ask(outputs=("y",)))


def test_after_two_silences_the_link_is_not_asked_until_a_probe_comes_back(site: Any) -> None:
    it = site(silent, link_pauses_s=(1.5, 8.0))
    assert it.runtime.breaker_state == "closed"
    for _ in range(2):
        it.runtime.infer(ask(), deadline_s=0.05, **CLOUD_FIRST)
        until(lambda: all(call.cancelled for call in it.remote.calls), "the call to be given up")
    for _ in range(5):
        begun = time.monotonic()
        assert it.runtime.infer(ask(), deadline_s=5, **CLOUD_FIRST).degraded
        assert time.monotonic() - begun < 2
    assert len(it.remote.calls) == 2
    assert it.runtime.breaker_state == "open"
    it.remote.script = cloud_says()
    until(lambda: it.runtime.infer(ask(), **CLOUD_FIRST).served_by == "cloud", "the probe")
    assert it.runtime.breaker_state == "closed"
    assert it.runtime.infer(ask(), **CLOUD_FIRST).served_by == "cloud"
    assert len(it.remote.calls) == 4


def test_a_runtime_without_a_cloud_has_no_breaker_to_show(runtime_of: MakeRuntime) -> None:
    assert runtime_of(FakeEngine()).breaker_state == ""


def test_a_stalled_link_is_noticed_also_when_the_device_is_always_first(site: Any) -> None:
    it = site(silent, link_pauses_s=(60.0, 60.0))
    for _ in range(2):
        it.runtime.infer(ask(), deadline_s=0.05, **BOTH)
    until(lambda: all(call.cancelled for call in it.remote.calls), "both calls to be given up")
    it.runtime.infer(ask(), deadline_s=0.05, **BOTH)
    assert len(it.remote.calls) == 2


def test_an_error_that_the_pool_sent_says_that_the_link_works(site: Any) -> None:
    it = site(refuses(RemoteError("no such model", remote_code="model.not_found")))
    for _ in range(5):
        it.runtime.infer(ask(), **CLOUD_FIRST)
    assert len(it.remote.calls) == 5


def test_a_request_too_large_for_the_broker_says_nothing_about_the_link(site: Any) -> None:
    it = site(refuses(FrameTooLargeError("5 MB")))
    for _ in range(5):
        it.runtime.infer(ask(), **CLOUD_FIRST)
    assert len(it.remote.calls) == 5


def test_a_model_too_slow_for_the_deadline_is_helped_by_the_cloud(site: Any) -> None:
    it = site(cloud_says())
    it.engine.gate.shut()
    threading.Timer(0.1, it.engine.gate.open).start()
    assert it.runtime.infer(ask(), deadline_s=10, mode=Mode.EDGE).timings_ms["compute"] >= 90
    assert it.runtime.infer(ask(), deadline_s=0.01).served_by == "cloud"


def test_a_request_taken_back_is_taken_back_from_the_cloud_too(site: Any) -> None:
    it = site(silent)
    future = it.runtime.submit(ask(), **CLOUD_FIRST)
    assert future.cancel()
    until(lambda: it.remote.calls[0].cancelled, "the call to be taken back")
    assert it.runtime.metrics.snapshot()["drops"] == {"cancelled": 1}


def test_closing_lets_nobody_wait_for_the_cloud(site: Any, infer: Any) -> None:
    it = site(silent, has_model=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer(it), ask(), deadline_s=60)
        until(lambda: it.remote.calls, "the call")
        it.runtime.close()
        with pytest.raises(DeadlineError):
            waiting.result(5)
        with pytest.raises(AimassError):
            infer(it)(ask(), deadline_s=60)


def test_the_queue_being_full_is_the_error_only_when_the_cloud_has_failed_too(site: Any) -> None:
    it = site(silent, max_queue=1)
    it.engine.gate.shut()
    held = it.runtime.submit(ask(), deadline_s=30, mode=Mode.EDGE)
    until(lambda: it.engine.gate.waiting == 1, "the engine to be busy")
    queued = it.runtime.submit(ask(), deadline_s=30, mode=Mode.EDGE)
    helped = it.runtime.submit(ask(), deadline_s=30, **BOTH)
    it.remote.calls[0].end(cloud_says()(it.remote.calls[0].request))
    assert value(helped.result(5)) == 1001
    it.remote.script = refuses(LinkDownError("down"))
    with pytest.raises(OverloadError):
        it.runtime.submit(ask(), deadline_s=30, **BOTH)
    it.engine.gate.open()
    for future in (held, queued):
        assert value(future.result(5)) == 2


@pytest.mark.parametrize("how", [CLOUD_FIRST, BOTH], ids=["saving", "never worse"])
def test_answers_from_both_sides_at_the_same_moment_give_one_answer(site: Any, how: dict[str, Any]) -> None:
    """The cloud answers from its own thread at about the moment the device does, many times over."""
    it = site(silent, margin_s=0.0)

    def answering(request: InferRequest) -> None:
        call_at = len(it.remote.calls) - 1
        call = it.remote.calls[call_at]
        threading.Timer(0.0002 * (call_at % 7), lambda: call.end(cloud_says()(request))).start()

    it.remote.script = answering
    values = {value(it.runtime.infer(ask(), deadline_s=5 if how is CLOUD_FIRST else 1, **how)) for _ in range(100)}
    assert values <= {2.0, 1001.0}
    found = it.runtime.metrics.snapshot()["models"]["model"]
    assert found["count"] == 100
    assert sum(found["served_by"].values()) == 100
