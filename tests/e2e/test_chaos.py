"""Broker, cloud and agent are killed at random moments while requests flow.

Every infer is answered where a model is on the device (an agent that is itself dead can answer nobody: its applications
see ConnectError until it is back, and nothing else), and every record that was taken arrives once.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from aimass.cli import digits
from aimass.cli.load import STREAM
from aimass.cli.stack import Stack
from aimass.client.agent import connect
from aimass.errors import AimassError, ConnectError
from tests.e2e.conftest import NewStack
from tests.e2e.steps import await_offload, deploy, events_of, wait_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SEED = int(os.environ.get("AIMASS_CHAOS_SEED", "20"))
GATEWAYS = ("gw-1", "gw-2")
MODES = ("edge", "cloud", "auto")
POLICIES = ("saving", "never_worse")


@dataclass
class Application:
    """A program on a gateway: infers and records without end, and writes down what failed."""

    stack: Stack
    gateway: str
    model: str
    images: digits.FloatArray
    answered: int = 0
    by_cloud: int = 0
    taken: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)
    failures: list[tuple[float, float, AimassError]] = field(default_factory=list)
    first: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.gateway, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        number = self.first
        with connect(self.stack.socket_path(self.gateway)) as client:
            while not self._stop.wait(0.004):
                number += 1
                began, image = time.monotonic(), self.images[number % len(self.images)][None]
                try:
                    answer = client.infer(
                        self.model, image, mode=MODES[number % 3], policy=POLICIES[number % 2], deadline_ms=1000
                    )
                    self.answered += 1
                    self.by_cloud += answer.served_by == "cloud"
                except AimassError as exc:
                    self.failures.append((began, time.monotonic(), exc))
                try:
                    client.record(STREAM, {"n": number})
                    self.taken.add(number)
                except AimassError as exc:
                    self.unsure.add(number)  # it may have been taken: only the answer was lost
                    self.failures.append((began, time.monotonic(), exc))

    def unexcused(self, outages: list[tuple[float, float]]) -> list[str]:
        """Failures that are not simply "the agent is dead" while it was."""
        return [
            f"{exc.code}: {exc.message}"
            for began, ended, exc in self.failures
            if not (isinstance(exc, ConnectError) and any(began <= up and ended >= down for down, up in outages))
        ]


@pytest.fixture
def running(new_stack: NewStack, data: digits.Digits, classifier: digits.Classifier) -> Stack:
    stack = new_stack({id_: {} for id_ in GATEWAYS})
    stack.start()
    deploy(stack, classifier)
    for id_ in GATEWAYS:
        with connect(stack.socket_path(id_)) as client:
            await_offload(client, classifier.name, data.test_images[:1])
    return stack


def test_kills_at_random_moments_lose_no_answer_and_no_record(
    running: Stack, data: digits.Digits, classifier: digits.Classifier
) -> None:
    chance = random.Random(SEED)
    outages: dict[str, list[tuple[float, float]]] = {id_: [] for id_ in GATEWAYS}
    applications = [Application(running, id_, classifier.name, data.test_images) for id_ in GATEWAYS]

    def kill_broker() -> None:
        pid = running.kill_broker()
        running.wait_broker(not_pid=pid)

    def kill_cloud() -> None:
        running.cloud.kill()
        time.sleep(chance.uniform(0, 1))
        running.start_cloud()

    def kill_agent() -> None:
        id_ = chance.choice(GATEWAYS)
        began = time.monotonic()
        running.agents[id_].kill()
        time.sleep(chance.uniform(0, 1))
        running.start_agent(id_)
        outages[id_].append((began, time.monotonic()))

    plan: list[Callable[[], None]] = [kill_broker, kill_cloud, kill_agent] * 3
    chance.shuffle(plan)
    print(f"seed {SEED}: {[step.__name__ for step in plan]}")
    for application in applications:
        application.start()
    for step in plan:
        time.sleep(chance.uniform(0.3, 2.5))
        step()
    running.wait_broker()
    for id_ in GATEWAYS:
        running.wait_online(id_)
    for application in applications:
        application.stop()

    for application in applications:
        id_ = application.gateway
        assert application.unexcused(outages[id_]) == []
        assert application.answered > 500
        assert application.by_cloud > 0
        found = wait_stored(running, id_, application.taken)
        assert len(found) == len(set(found)), "a record arrived twice"
        assert set(found) <= application.taken | application.unsure
        assert [event["kind"] for event in events_of(running, id_) if event["kind"] == "gap"] == []


def test_every_record_is_there_once_after_the_database_was_restored_from_a_backup(
    running: Stack, data: digits.Digits, classifier: digits.Classifier
) -> None:
    id_ = GATEWAYS[0]
    backup = running.folder / "backup"
    application = Application(running, id_, classifier.name, data.test_images)
    application.start()
    wait_taken(application, 200)
    running.backup(backup)
    wait_taken(application, 600)
    wait_stored(running, id_, set(range(1, 500)))  # acknowledged to the device after the backup was made
    running.cloud.kill()
    running.restore(backup)
    running.start_cloud()
    running.wait_online(id_)
    wait_taken(application, 800)
    application.stop()
    assert application.unexcused([]) == []
    found = wait_stored(running, id_, application.taken)
    assert sorted(found) == sorted(application.taken)
    # The restored cloud is believed: a new version of its desired document reaches the gateways.
    deploy(running, classifier)


def wait_taken(application: Application, count: int, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while len(application.taken) < count:
        assert time.monotonic() < deadline, f"only {len(application.taken)} records in {timeout_s} s"
        time.sleep(0.05)
