"""Our own door keeps every rule of the conformance tool, over TCP and over a Unix socket."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimass.conformance.__main__ import main
from aimass.conformance.cases import ALL_CASES
from aimass.serving.rest import RestDoor
from tests.fakes.probe_models import probe_door, serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestDoor]:
    with probe_door(tmp_path_factory.mktemp("probes")) as made:
        yield made


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    code = main([*arguments, "--json"])
    outcomes = json.loads(capsys.readouterr().out)
    results: dict[str, list[str]] = {"fail": [], "skip": [], "pass": []}
    for one in outcomes["cases"]:
        results[one["result"]].append(f"{one['id']} {one['reason']}".strip())
    assert code == (1 if not outcomes["conformant"] else 0)
    return results


def test_our_door_passes_every_case_over_tcp(door: RestDoor, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, serving(door, sock):
        results = told([f"http://127.0.0.1:{sock.getsockname()[1]}"], capsys)
    assert results["fail"] == []
    assert results["skip"] == []
    assert len(results["pass"]) == len(ALL_CASES)


def test_our_door_passes_every_case_over_a_unix_socket(
    door: RestDoor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(tmp_path / "door.sock"))
        sock.listen(128)
        with serving(door, sock):
            results = told(["http://localhost", "--uds", str(tmp_path / "door.sock")], capsys)
    assert (results["fail"], results["skip"]) == ([], [])
