"""Whole stacks of real processes, and a trained classifier to run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from aimass.cli import digits, reaper
from aimass.cli.stack import Stack

NewStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def data() -> digits.Digits:
    return digits.load()


@pytest.fixture(scope="session")
def classifier(data: digits.Digits) -> digits.Classifier:
    return digits.train(digits.SMALL, data)


@pytest.fixture
def new_stack(short_tmp: Path) -> Iterator[NewStack]:
    """Makes stacks that are not started yet; afterwards everything is stopped and nothing may be left running."""
    made: list[Stack] = []

    def make(agents: Mapping[str, Mapping[str, str]], cloud_env: Mapping[str, str] | None = None) -> Stack:
        made.append(Stack(short_tmp / str(len(made)), agents=agents, cloud_env=cloud_env))
        return made[-1]

    yield make
    for stack in made:
        stack.close()
        for process in (stack.cloud, *stack.agents.values()):
            print(f"--- the end of {process.log.name}\n{process.tail()}")  # pytest shows it when the test failed
        assert reaper.marked(stack.mark) == []
