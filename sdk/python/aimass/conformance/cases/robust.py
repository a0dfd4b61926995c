"""Clients that misbehave, and many at once."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator

from aimass.conformance.connection import Endpoint, Failed, expect
from aimass.conformance.lab import Lab, value_of
from aimass.conformance.suite import Section
from aimass.conformance.tensors import compose, read_answer

SECTION = Section("R", "Robustness")
_STALLED = 50
_CLIENTS = 8


@SECTION.case("two requests on one connection")
def _(lab: Lab) -> None:
    lab.endpoint.close()
    for _ in range(2):
        expect(lab.endpoint.get("/v2/health/live").status == 200, "the second is not answered")


@SECTION.case("a connection, or a fresh one, works after a refused request")
def _(lab: Lab) -> None:
    model = lab.identity()
    lab.endpoint.post(f"{model.path}/infer", b"nonsense" * 1000)
    expect(lab.infer(model, [value_of(model, [1.0])]).only().values == [1.0], "it does not")


@SECTION.case("50 clients that stall in the middle of a request keep nobody from an answer")
def _(lab: Lab) -> None:
    model = lab.identity()
    with contextlib.ExitStack() as stack:
        for _ in range(_STALLED):
            connection = stack.enter_context(contextlib.closing(lab.endpoint.connect()))
            connection.putrequest("POST", lab.endpoint.path(f"{model.path}/infer"))
            for name, value in {**lab.endpoint.headers, "Content-Length": "1000"}.items():
                connection.putheader(name, value)
            connection.endheaders(b'{"inputs"')
        duration_s = lab.endpoint.get("/v2/health/live").duration_s
        expect(duration_s < 2, f"health took {duration_s:.1f} s")
        expect(lab.infer(model, [value_of(model, [1.0])]).only().values == [1.0], "inference is not answered")


@SECTION.case("eight clients at once each get their own answer")
def _(lab: Lab) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        endpoint = _like(lab.endpoint)
        model = lab.identity()
        with contextlib.closing(endpoint):
            for count in range(20):
                value = float(number * 100 + count)
                body, headers = compose([value_of(model, [value], is_binary=True)], id=str(value))
                try:
                    answer = read_answer(endpoint.post(f"{model.path}/infer", body, headers))
                except Failed as exc:
                    wrong.append(str(exc))
                    return
                if answer.only().values != [value] or answer.fields["id"] != str(value):
                    wrong.append(f"{value} was answered by {answer.only().values}")

    lab.identity()
    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(_CLIENTS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(lab.endpoint.timeout_s * 2)
    expect(not wrong, "; ".join(wrong[:3]))


@SECTION.case("health answers within 50 ms (median) while two clients send large JSON requests", required=False)
def _(lab: Lab) -> None:
    lab.identity()
    with _load(lab):
        times = []
        for _ in range(15):
            times.append(lab.endpoint.get("/v2/health/live").duration_s)
            time.sleep(0.01)  # between two looks, so that the load runs and not the looking
    expect(statistics.median(times) < 0.05, f"the median is {statistics.median(times) * 1000:.0f} ms")


@contextlib.contextmanager
def _load(lab: Lab) -> Iterator[None]:
    model, done = lab.identity(), threading.Event()
    body, _ = compose([value_of(model, [0.5] * 20_000)])

    def send() -> None:
        with contextlib.closing(_like(lab.endpoint)) as endpoint:
            while not done.is_set():
                endpoint.post(f"{model.path}/infer", body)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(2)]
    for one in threads:
        one.start()
    try:
        yield
    finally:
        done.set()
        for one in threads:
            one.join(lab.endpoint.timeout_s)


def _like(endpoint: Endpoint) -> Endpoint:
    return Endpoint(endpoint.url, endpoint.uds, endpoint.headers, endpoint.timeout_s)
