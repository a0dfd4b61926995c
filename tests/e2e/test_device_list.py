"""What ``aimass device list`` says about gateways that died, were stopped, or froze."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aimass.cli.devices import as_time
from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from tests.e2e.conftest import NewStack
from tests.e2e.steps import as_json

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

GONE_WITHIN_S = 30
FROZEN_WITHIN_S = 70


class DeviceList:
    """The command, run as an operator runs it."""

    def __init__(self, stack: Stack) -> None:
        self.profile = stack.folder / "profile.json"
        stack.write_profile(self.profile)

    def now(self) -> dict[str, dict[str, Any]]:
        command = [sys.executable, "-c", "from aimass.cli import run; run()", "--profile", str(self.profile)]
        done = subprocess.run(
            [*command, "device", "list", "--json"], capture_output=True, text=True, timeout=30, check=True
        )
        return {entry["id"]: entry for entry in as_json(done.stdout)}

    def wait_offline(self, id_: str, *, since_s: float, within_s: float, from_s: float | None = None) -> None:
        """Until the list says offline, at most ``within_s`` after it happened (or ``from_s``); checks ``since``."""
        entry: dict[str, Any] = {}

        def offline() -> bool:
            entry.update(self.now()[id_])
            return entry["state"] == "offline"

        left_s = (from_s or since_s) + within_s - time.time()
        wait_until(offline, timeout_s=left_s, every_s=0.5, what=f"{id_} to be offline")
        since = as_time(entry["since"])
        assert since is not None
        assert abs(since.timestamp() - since_s) <= GONE_WITHIN_S, "since is the last sign of life or the farewell"

    def state(self, id_: str) -> str:
        return str(self.now()[id_]["state"])


@pytest.fixture
def fleet(new_stack: NewStack) -> Stack:
    # No engines: presence does not depend on them, and five agents start quicker without.
    stack = new_stack({f"gw-{name}": {"AIMASS_EDGE_ENGINES": "[]"} for name in ("fine", "killed", "stopped", "frozen")})
    stack.start()
    return stack


def test_gone_and_frozen_gateways_are_offline_in_time_and_the_others_are_not(fleet: Stack) -> None:
    listing = DeviceList(fleet)
    assert {entry["state"] for entry in listing.now().values()} == {"online"}

    fleet.agents["gw-killed"].kill()
    killed_s = time.time()
    fleet.agents["gw-stopped"].stop()
    stopped_s = time.time()
    fleet.agents["gw-frozen"].freeze()
    frozen_s = time.time()

    listing.wait_offline("gw-stopped", since_s=stopped_s, within_s=GONE_WITHIN_S)
    listing.wait_offline("gw-killed", since_s=killed_s, within_s=GONE_WITHIN_S)
    listing.wait_offline("gw-frozen", since_s=frozen_s, within_s=FROZEN_WITHIN_S)
    assert listing.state("gw-fine") == "online"

    fleet.agents["gw-frozen"].thaw()
    fleet.start_agent("gw-killed")
    fleet.start_agent("gw-stopped")
    for id_ in fleet.agents:
        fleet.wait_online(id_)
    assert {entry["state"] for entry in listing.now().values()} == {"online"}

    # The broker dies with an agent: nobody is left to send that agent's will.
    fleet.agents["gw-killed"].kill()
    fleet.kill_broker()
    killed_s = time.time()
    listing.wait_offline("gw-killed", since_s=killed_s, within_s=GONE_WITHIN_S)
    for id_ in set(fleet.agents) - {"gw-killed"}:
        fleet.wait_online(id_)

    # And so does the cloud: it must not believe what its last run or the broker kept.
    fleet.cloud.kill()
    fleet.agents["gw-stopped"].kill()
    stopped_s = time.time()
    fleet.start_cloud()
    back_s = time.time()
    listing.wait_offline("gw-stopped", since_s=stopped_s, within_s=GONE_WITHIN_S, from_s=back_s)
    listing.wait_offline("gw-killed", since_s=killed_s, within_s=GONE_WITHIN_S, from_s=back_s)
    fleet.wait_online("gw-fine")


def test_the_table_shows_state_and_models_to_a_person(fleet: Stack, tmp_path: Path) -> None:
    listing = DeviceList(fleet)
    command = [sys.executable, "-c", "from aimass.cli import run; run()", "--profile", str(listing.profile)]
    done = subprocess.run([*command, "device", "list"], capture_output=True, text=True, timeout=30, check=True)
    lines = [line for line in done.stdout.splitlines() if "gw-" in line]
    assert len(lines) == 4
    assert all("online" in line for line in lines)
    done = subprocess.run(
        [*command, "device", "show", "gw-fine"], capture_output=True, text=True, timeout=30, check=True
    )
    assert '"state": "online"' in done.stdout
