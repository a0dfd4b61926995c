"""A pool that is not called "default": its workers answer for it, and for no other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from aimass.cli import digits
from aimass.cli.process import Process
from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from aimass.client.agent import connect
from tests.e2e.conftest import NewStack
from tests.e2e.steps import await_offload, deploy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

NAME, WORKERS = "AIMASS_CLOUD_POOL__NAME", "AIMASS_CLOUD_POOL__WORKERS"
ASKS_NORTH, ASKS_SOUTH = "gw-north", "gw-south"


@pytest.fixture
def start(new_stack: NewStack, classifier: digits.Classifier) -> Callable[[int], Stack]:
    """A cloud whose pool is called "north", and two gateways that each ask the pool of their name."""

    def begin(workers: int) -> Stack:
        agents = {id_: {"AIMASS_EDGE_OFFLOAD__POOL": id_[3:]} for id_ in (ASKS_NORTH, ASKS_SOUTH)}
        stack = new_stack(agents, {NAME: "north", WORKERS: str(workers)})
        stack.start()
        deploy(stack, classifier)
        return stack

    return begin


@pytest.fixture
def ask(data: digits.Digits, classifier: digits.Classifier) -> Callable[[Stack, str], None]:
    """Until the pool has answered a gateway."""

    def begin(stack: Stack, gateway: str) -> None:
        with connect(stack.socket_path(gateway)) as client:
            await_offload(client, classifier.name, data.test_images[:1])

    return begin


@pytest.fixture
def new_worker() -> Iterator[Callable[[Stack, str], Process]]:
    """Starts a worker by hand, as on another machine."""
    started: list[Process] = []

    def begin(stack: Stack, pool: str) -> Process:
        name = f"by-hand-{len(started)}"
        token = stack.command("cloud", [*stack.cloud.argv[:-1], "enrol-token", f"svc:{name}"], stack.cloud.env).strip()
        argv = [sys.executable, "-m", "aimass_cloud", "worker", "--home", str(stack.folder / name)]
        argv += ["--token", token, "--pool", pool]
        started.append(Process(name, argv, log=stack.folder / "logs" / f"{name}.log", env=stack.cloud.env))
        started[-1].start()
        return started[-1]

    yield begin
    for worker in started:
        worker.stop()
        print(f"--- the end of {worker.log.name}\n{worker.tail()}")


def test_workers_answer_for_the_pool_of_the_settings_and_follow_when_it_is_renamed(
    start: Callable[[int], Stack], ask: Callable[[Stack, str], None], data: digits.Digits, classifier: digits.Classifier
) -> None:
    stack = start(1)
    ask(stack, ASKS_NORTH)
    with connect(stack.socket_path(ASKS_SOUTH)) as client:
        alone = client.infer(classifier.name, data.test_images[:1], mode="cloud")
    assert (alone.served_by, alone.degraded) == ("edge", True)
    stack.cloud.stop()
    stack.cloud.env[NAME] = "south"
    stack.start_cloud()
    ask(stack, ASKS_SOUTH)


def test_a_worker_started_by_hand_answers_for_the_pool_it_is_told_and_may_serve_no_other(
    start: Callable[[int], Stack], ask: Callable[[Stack, str], None], new_worker: Callable[[Stack, str], Process]
) -> None:
    stack = start(0)
    new_worker(stack, "north")
    ask(stack, ASKS_NORTH)
    astray = new_worker(stack, "south")
    wait_until(lambda: "may not answer for pool south" in astray.tail(), timeout_s=30, what="the worker to say so")
