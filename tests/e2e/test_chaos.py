"""Broker, cloud and agent are killed at random moments while requests flow.

Every infer is answered where a model is on the device (an agent that is itself dead can answer nobody: its applications
see ConnectError until it is back, and nothing else), and every record that was taken arrives once.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
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
SOAK_MINUTES = float(os.environ.get("AIMASS_SOAK_MINUTES", "60"))
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


class Chaos:
    """Kills parts of a stack at random moments and brings them back; everything comes from one seed."""

    def __init__(self, stack: Stack, seed: int) -> None:
        print(f"seed {seed}")
        self.chance = random.Random(seed)
        self.outages: dict[str, list[tuple[float, float]]] = {id_: [] for id_ in stack.agents}
        self._stack = stack

    def steps(self, rounds: int) -> Iterator[None]:
        """Each kind of kill as often as there are rounds, in random order."""
        plan = [self.kill_broker, self.kill_cloud, self.kill_agent] * rounds
        self.chance.shuffle(plan)
        for step in plan:
            time.sleep(self.chance.uniform(0.3, 2.5))  # the random moment
            print(f"{time.monotonic():.1f} {step.__name__}")
            step()
            yield

    def kill_broker(self) -> None:
        pid = self._stack.kill_broker()
        self._stack.wait_broker(not_pid=pid)

    def kill_cloud(self) -> None:
        self._stack.cloud.kill()
        time.sleep(self.chance.uniform(0, 1))
        self._stack.start_cloud()

    def kill_agent(self) -> None:
        id_ = self.chance.choice(list(self._stack.agents))
        began = time.monotonic()
        self._stack.agents[id_].kill()
        time.sleep(self.chance.uniform(0, 1))
        self._stack.start_agent(id_)
        self.outages[id_].append((began, time.monotonic()))


def check_all(stack: Stack, chaos: Chaos, applications: list[Application]) -> None:
    """Every promise, once the stack is whole again and the applications have stopped."""
    stack.wait_broker()
    for id_ in stack.agents:
        stack.wait_online(id_)
    for application in applications:
        application.stop()
    for application in applications:
        id_ = application.gateway
        assert application.unexcused(chaos.outages[id_]) == []
        assert application.answered > 500
        assert application.by_cloud > 0
        found = wait_stored(stack, id_, application.taken)
        assert len(found) == len(set(found)), "a record arrived twice"
        assert set(found) <= application.taken | application.unsure
        assert [event["kind"] for event in events_of(stack, id_) if event["kind"] == "gap"] == []


def test_kills_at_random_moments_lose_no_answer_and_no_record(
    running: Stack, data: digits.Digits, classifier: digits.Classifier
) -> None:
    chaos = Chaos(running, SEED)
    applications = [Application(running, id_, classifier.name, data.test_images) for id_ in GATEWAYS]
    for application in applications:
        application.start()
    for _ in chaos.steps(rounds=3):
        pass
    check_all(running, chaos, applications)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_hours_of_kills_lose_no_answer_and_no_record(
    running: Stack, data: digits.Digits, classifier: digits.Classifier
) -> None:
    chaos = Chaos(running, SEED)
    applications = [Application(running, id_, classifier.name, data.test_images) for id_ in GATEWAYS]
    for application in applications:
        application.start()
    ends = time.monotonic() + SOAK_MINUTES * 60
    while time.monotonic() < ends:
        for _ in chaos.steps(rounds=3):
            assert [one.unexcused(chaos.outages[one.gateway]) for one in applications] == [[], []]
    check_all(running, chaos, applications)


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
