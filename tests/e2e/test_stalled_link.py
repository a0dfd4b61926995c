"""A link that stays open and delivers nothing: the worst kind, because nobody says that it is down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from aimass.cli import digits
from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from aimass.client.agent import AgentClient, connect
from tests.e2e.conftest import NewStack
from tests.e2e.steps import await_offload, deploy, timed, wait_stored
from tests.fakes.relay import Relay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GATEWAY = "gw-relayed"
DEADLINE_MS = 150.0
ROUNDS = 300
# DESIGN section 8 promises 1 ms and 5 ms; `make bench` holds those on an idle machine. Here other tests' leftovers and
# the page cache share two cores, so a slow moment of the machine itself is allowed for.
NEVER_WORSE_BY_S = 0.001
MACHINE_S = float(os.environ.get("AIMASS_TEST_SLACK_S", "0.02"))


@pytest.fixture
def relay_and_stack(new_stack: NewStack) -> Iterator[tuple[Relay, Stack]]:
    stack = new_stack({GATEWAY: {}})
    stack.init_cloud()
    stack.start_cloud()
    stack.enrol(GATEWAY)
    with Relay("127.0.0.1", stack.broker_port) as relay:
        send_through(relay, stack)
        stack.start_agent(GATEWAY)
        stack.wait_online(GATEWAY)
        yield relay, stack


def send_through(relay: Relay, stack: Stack) -> None:
    """The gateway reaches the broker by the relay's port; the worker does not."""
    path = stack.home(GATEWAY) / "identity" / "trust.json"
    trust = json.loads(path.read_text())
    trust["broker"]["port"] = relay.port
    path.write_text(json.dumps(trust))


def test_a_stalled_link_costs_neither_answers_nor_deadlines_nor_records(
    relay_and_stack: tuple[Relay, Stack], data: digits.Digits, classifier: digits.Classifier
) -> None:
    relay, stack = relay_and_stack
    deploy(stack, classifier)
    image = data.test_images[:1]
    with connect(stack.socket_path(GATEWAY)) as client:
        await_offload(client, classifier.name, image)
        relay.stall()

        edge, both = [], []
        for _ in range(ROUNDS):
            edge.append(timed(lambda: client.infer(classifier.name, image, mode="edge"))[1])
            answer, took_s = timed(lambda: client.infer(classifier.name, image, mode="cloud", policy="never_worse"))
            assert answer.served_by == "edge"
            both.append(took_s)
        saving = [saving_s(client, classifier.name, image) for _ in range(ROUNDS)]

        for name, took in (("saving", saving), ("edge", edge), ("never_worse", both)):
            print(f"{name}: p50 {np.median(took) * 1000:.2f}, p99 {np.percentile(took, 99) * 1000:.2f} ms")
        assert max(saving) <= DEADLINE_MS / 1000 + 0.005 + MACHINE_S
        p99_edge, p99_both = np.percentile(edge, 99), np.percentile(both, 99)
        assert p99_both <= p99_edge + NEVER_WORSE_BY_S + MACHINE_S
        assert np.median(both) <= np.median(edge) + NEVER_WORSE_BY_S

        for n in range(50):
            client.record("answers", {"n": n})
        relay.resume()
        found = wait_stored(stack, GATEWAY, range(50))
        assert sorted(found) == list(range(50))
        await_offload(client, classifier.name, image)


def saving_s(client: AgentClient, model: str, image: digits.FloatArray) -> float:
    """One request with policy saving on the stalled link; how long it took."""
    answer, took_s = timed(lambda: client.infer(model, image, mode="cloud", policy="saving", deadline_ms=DEADLINE_MS))
    assert answer.served_by == "edge"
    assert answer.degraded
    return took_s


def test_an_agent_that_starts_on_a_stalled_link_answers_at_once(
    relay_and_stack: tuple[Relay, Stack], data: digits.Digits, classifier: digits.Classifier
) -> None:
    relay, stack = relay_and_stack
    deploy(stack, classifier)
    stack.agents[GATEWAY].stop()
    relay.stall()
    stack.start_agent(GATEWAY)
    with connect(stack.socket_path(GATEWAY)) as client:
        started = time.monotonic()
        answer = client.infer(classifier.name, data.test_images[:1], mode="cloud")
        assert answer.served_by == "edge"
        assert time.monotonic() - started < 1.0
        relay.cut()
        assert client.infer(classifier.name, data.test_images[:1], mode="cloud").served_by == "edge"
        relay.resume()
        wait_until(lambda: client.status()["link"]["up"], timeout_s=60, what="the link to be up again")
