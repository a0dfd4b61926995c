from __future__ import annotations

from typing import Any

import pytest

from aimass.placement.plan import Plan, decide
from aimass.placement.policy import Mode, Policy


def plan(mode: Mode, policy: Policy = Policy.SAVING, *, link_answers: bool = True, **facts: Any) -> Plan:
    known: dict[str, Any] = {"has_edge": True, "has_remote": True, "remaining_s": 0.1, "edge_p95_s": 0.02}
    return decide(mode, policy, breaker_allows=lambda: link_answers, **known | facts)


def test_edge_mode_never_asks_the_cloud() -> None:
    assert plan(Mode.EDGE) == Plan(edge_at_s=0.0, remote=False, wanted_remote=False)
    assert plan(Mode.EDGE, has_edge=False) == Plan(edge_at_s=None, remote=False, wanted_remote=False)


@pytest.mark.parametrize("policy", Policy)
def test_auto_stays_on_a_device_that_can_keep_the_deadline(policy: Policy) -> None:
    assert plan(Mode.AUTO, policy) == Plan(edge_at_s=0.0, remote=False, wanted_remote=False)
    assert plan(Mode.AUTO, policy, edge_p95_s=0.0).remote is False


def test_auto_asks_the_cloud_as_well_when_the_device_is_too_slow() -> None:
    assert plan(Mode.AUTO, edge_p95_s=0.2) == Plan(edge_at_s=0.0, remote=True, wanted_remote=True)
    assert plan(Mode.AUTO, edge_p95_s=0.2, has_remote=False) == Plan(0.0, remote=False, wanted_remote=False)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.CLOUD])
def test_without_the_model_here_only_the_cloud_is_asked_even_when_it_did_not_answer_lately(mode: Mode) -> None:
    wanted = Plan(edge_at_s=None, remote=True, wanted_remote=True)
    assert plan(mode, has_edge=False) == wanted
    assert plan(mode, has_edge=False, link_answers=False) == wanted


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.CLOUD])
def test_without_model_and_link_nobody_is_asked(mode: Mode) -> None:
    assert plan(mode, has_edge=False, has_remote=False) == Plan(edge_at_s=None, remote=False, wanted_remote=True)


def test_never_worse_begins_both_at_once() -> None:
    assert plan(Mode.CLOUD, Policy.NEVER_WORSE) == Plan(edge_at_s=0.0, remote=True, wanted_remote=True)


def test_saving_arms_the_device_as_late_as_the_deadline_allows() -> None:
    found = plan(Mode.CLOUD, Policy.SAVING, remaining_s=0.1, edge_p95_s=0.02, margin_s=0.005)
    assert found.edge_at_s == pytest.approx(0.075)
    assert found.remote


def test_saving_begins_the_device_at_once_when_there_is_no_time_to_wait() -> None:
    assert plan(Mode.CLOUD, Policy.SAVING, remaining_s=0.02, edge_p95_s=0.02).edge_at_s == 0.0


@pytest.mark.parametrize("policy", Policy)
def test_the_device_answers_alone_and_at_once_when_the_link_does_not(policy: Policy) -> None:
    instead = Plan(edge_at_s=0.0, remote=False, wanted_remote=True)
    assert plan(Mode.CLOUD, policy, link_answers=False) == instead
    assert plan(Mode.CLOUD, policy, has_remote=False) == instead


@pytest.mark.parametrize(
    ("mode", "facts"),
    [(Mode.EDGE, {}), (Mode.AUTO, {}), (Mode.CLOUD, {"has_edge": False}), (Mode.CLOUD, {"has_remote": False})],
    ids=["edge", "auto on a quick device", "cloud only", "no link"],
)
def test_the_breakers_one_probe_is_not_spent_where_nothing_depends_on_it(mode: Mode, facts: dict[str, Any]) -> None:
    asked: list[bool] = []
    known: dict[str, Any] = {"has_edge": True, "has_remote": True, "remaining_s": 0.1, "edge_p95_s": 0.02}
    decide(mode, Policy.SAVING, breaker_allows=lambda: bool(asked.append(True)), **known | facts)
    assert not asked
