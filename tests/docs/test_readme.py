"""What README.md says must be true: its example runs, its commands and links exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aimass.cli import digits
from aimass.cli.main import cli
from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from tests.e2e.steps import deploy, events_of

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_every_link_leads_somewhere() -> None:
    for text in (README, (ROOT / "ARCHITECTURE.md").read_text()):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (ROOT / target).exists(), target


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_aimass_command_exists() -> None:
    lines = re.findall(r"^aimass (\w+) ?(\w*)", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert lines
    for group, word in lines:
        command = cli.commands[group]
        assert word in getattr(command, "commands", {word}), f"aimass {group} {word}"


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    roots = {"aimass/": "sdk/python/", "aimass_edge": "", "aimass_cloud": "", "tests/": "", "sdk/": ""}
    for name in re.findall(r"`((?:aimass|aimass_edge|aimass_cloud|tests|sdk)/[\w/.]+)`", text):
        base = next(place for start, place in roots.items() if name.startswith(start))
        assert (ROOT / base / name).exists(), name


def test_the_example_is_about_ten_lines() -> None:
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 12


@pytest.mark.e2e
def test_the_example_runs_as_it_stands(short_tmp: Path) -> None:
    (example,) = blocks("python")
    with Stack(short_tmp / "s", agents={"gw-1": {}}) as stack:
        stack.start()
        deploy(stack, digits.train(digits.SMALL, digits.load()))
        done = subprocess.run(
            [sys.executable, "-c", example],
            env={**os.environ, "AIMASS_SOCKET": str(stack.socket_path("gw-1"))},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 20
        assert "says the edge" in done.stdout
        wait_until(lambda: len(events_of(stack, "gw-1")) == 20, timeout_s=30, what="the records in the cloud")
