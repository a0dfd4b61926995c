"""The agent as a real process, with neither cloud nor broker: it answers from what is installed, whatever happens."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from aimass.client.agent import AgentClient
from aimass.device.outbox import Outbox
from aimass.errors import ConnectError, DeadlineError
from tests.fakes import onnx_models
from tests.fakes.homes import AgentProcess, EnrolledHome, run_edge
from tests.fakes.waiting import until

pytestmark = pytest.mark.integration

X = np.array([[1.0, 2.0]], np.float32)


@pytest.fixture
def home(short_tmp: Path) -> EnrolledHome:
    made = EnrolledHome(short_tmp / "home")
    made.install(onnx_models.add(), "add", 3)
    return made


@pytest.fixture
def agent(home: EnrolledHome) -> Iterator[AgentProcess]:
    with AgentProcess(home.folder) as agent:
        yield agent


def test_it_answers_from_what_is_installed_without_any_network(agent: AgentProcess) -> None:
    with agent.client(deadline_ms=5000) as client:
        answer = client.infer("add", X)
        assert (answer.version, answer.outputs["y"].tolist()) == ("3", [[2.0, 3.0]])
        status = client.status()
    assert status["id"] == "gw-1"
    assert not status["link"]["up"]
    assert [(one["name"], one["version"], one["state"]) for one in status["models"]] == [("add", 3, "running")]
    assert status["metrics"]["models"]["add"]["count"] == 1
    assert status["process"]["rss_bytes"] > 0


def test_wanting_the_cloud_without_a_link_is_answered_here_and_marked(agent: AgentProcess) -> None:
    with agent.client(deadline_ms=5000) as client:
        answer = client.infer("add", X, mode="cloud")
        assert (answer.served_by, answer.degraded) == ("edge", True)


def test_the_socket_is_for_owner_and_group(agent: AgentProcess) -> None:
    assert stat.S_IMODE((agent.home / "agent.sock").stat().st_mode) == 0o660
    assert stat.S_IMODE(agent.home.stat().st_mode) == 0o710  # the group passes, and reads nothing else
    assert [one for one in agent.home.iterdir() if one.stat().st_mode & 0o066 and one.name != "agent.sock"] == []


def test_sigterm_ends_it_cleanly(agent: AgentProcess) -> None:
    assert agent.stop() == 0, agent.said()
    assert not (agent.home / "agent.sock").exists()
    assert "Traceback" not in agent.said()


def test_requests_in_progress_are_finished_before_it_ends(home: EnrolledHome) -> None:
    home.install(onnx_models.looping(), "slow")
    slow = {"times": np.array(200_000, np.int64), "x": np.ones((1, 64), np.float32)}
    with (
        AgentProcess(home.folder) as agent,
        agent.client(deadline_ms=20_000) as client,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        busy = psutil.Process(agent.process.pid)  # type: ignore[union-attr]
        before_s = busy.cpu_times().user
        running = threads.submit(client.infer, "slow", slow)
        until(lambda: busy.cpu_times().user > before_s + 0.1, "the model to run")
        assert not running.done()
        assert agent.stop() == 0
        assert running.result(20).outputs["y"].shape == (1, 64)


def test_after_sigkill_it_comes_back_over_the_stale_socket(agent: AgentProcess) -> None:
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    assert (agent.home / "agent.sock").exists()
    agent.start()
    with agent.client(deadline_ms=5000) as client:
        assert client.infer("add", X).version == "3"


def test_a_client_outlasts_a_killed_and_restarted_agent(agent: AgentProcess) -> None:
    with agent.client(deadline_ms=20_000) as client:
        client.infer("add", X)
        agent.stop(signal.SIGKILL)
        agent.start(wait=False)
        assert client.infer("add", X).version == "3"


def test_records_survive_sigkill(agent: AgentProcess) -> None:
    with agent.client() as client:
        assert [client.record("events", {"n": n}) for n in range(20)] == list(range(1, 21))
        agent.stop(signal.SIGKILL)
        agent.start()
        assert client.record("events", {"n": 20}) == 21
        assert client.status()["outbox"]["pending"] == 21


def test_records_given_while_the_agent_is_killed_are_kept_once(agent: AgentProcess) -> None:
    """A kill between the write and the answer makes the client ask again; the record's id tells that it is there."""
    given: list[str] = []
    stop = threading.Event()

    def give(client: AgentClient, giver: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            client.record("events", {"n": f"{giver}-{number}"})
            given.append(f"{giver}-{number}")

    with agent.client() as client, concurrent.futures.ThreadPoolExecutor(4) as threads:
        giving = [threads.submit(give, client, giver) for giver in range(4)]
        try:
            for _ in range(4):
                seen = len(given)
                until(lambda seen=seen: len(given) > seen + 40, "records to be taken")  # type: ignore[misc]
                agent.stop(signal.SIGKILL)
                agent.start()
        finally:
            stop.set()
        for one in giving:
            one.result(20)
    agent.stop()
    with contextlib.closing(Outbox(agent.home / "outbox.db")) as outbox:
        rows = outbox.read("events", 0, max_records=len(given) + 100, max_bytes=1 << 30)
    assert sorted(json.loads(row.data)["n"] for row in rows) == sorted(given)


def test_a_second_agent_on_one_home_is_refused_and_the_first_goes_on(agent: AgentProcess) -> None:
    second = run_edge(agent.home, "run")
    assert second.returncode == 1
    assert str(agent.process.pid) in second.stderr  # type: ignore[union-attr]
    with agent.client(deadline_ms=5000) as client:
        assert client.infer("add", X).version == "3"


def test_a_frozen_agent_ends_in_a_deadline_error_not_in_a_hang(agent: AgentProcess) -> None:
    with agent.client() as client:
        client.infer("add", X, deadline_ms=5000)
        os.kill(agent.process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        try:
            started = time.monotonic()
            with pytest.raises(DeadlineError):
                client.infer("add", X, deadline_ms=200)
            assert time.monotonic() - started < 5
        finally:
            os.kill(agent.process.pid, signal.SIGCONT)  # type: ignore[union-attr]
        assert client.infer("add", X, deadline_ms=5000).version == "3"


def test_no_agent_is_a_connect_error(short_tmp: Path) -> None:
    with AgentProcess(short_tmp).client() as client, pytest.raises(ConnectError):
        client.infer("add", {"x": X})


@pytest.mark.parametrize("kind", ["garbage", "cut off", "unknown operator"])
def test_a_model_that_does_not_load_is_reported_and_the_others_answer(home: EnrolledHome, kind: str) -> None:
    good = onnx_models.specs_of(onnx_models.mlp())
    home.install(onnx_models.BROKEN[kind](), "bad", specs=good)
    with AgentProcess(home.folder) as agent, agent.client(deadline_ms=5000) as client:
        assert client.infer("add", X).version == "3"
        states = {one["name"]: one for one in client.status()["models"]}
    assert states["add"]["state"] == "running"
    assert states["bad"]["state"] == "failed"
    assert states["bad"]["error"]["code"].startswith("model.")


def test_a_changed_model_file_is_not_run(home: EnrolledHome) -> None:
    (home.folder / "models" / "add" / "3" / "model.onnx").write_bytes(onnx_models.add(99))
    with AgentProcess(home.folder) as agent, agent.client() as client:
        (model,) = client.status()["models"]
    assert (model["state"], model["error"]["code"]) == ("failed", "trust.digest")


def test_a_home_that_is_not_enrolled_is_refused_with_what_to_do(short_tmp: Path) -> None:
    done = run_edge(short_tmp, "run")
    assert done.returncode == 1
    assert "enrol" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_refused_naming_key_and_file(home: EnrolledHome) -> None:
    (home.folder / "agent.toml").write_text("hartbeat_s = 3\n")
    done = run_edge(home.folder, "run")
    assert done.returncode == 1
    assert "hartbeat_s" in done.stderr
    assert "agent.toml" in done.stderr


def test_a_gateway_without_engines_runs_and_says_what_it_cannot(home: EnrolledHome) -> None:
    with AgentProcess(home.folder, {"AIMASS_EDGE_ENGINES": "[]"}) as agent, agent.client() as client:
        status = client.status()
        assert status["engines"] == {}
        assert status["models"][0]["state"] == "failed"


def test_clients_that_stall_keep_nobody_else_waiting(agent: AgentProcess) -> None:
    stalled = []
    for number in range(100):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(agent.home / "agent.sock"))
        if number % 2:
            sock.sendall(b"POST /v2/models/add/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        stalled.append(sock)
    try:
        with agent.client(deadline_ms=2000) as client:
            for _ in range(20):
                assert client.infer("add", X).version == "3"
    finally:
        for sock in stalled:
            sock.close()


class TestLoopbackDoor:
    @pytest.fixture
    def door(self, home: EnrolledHome) -> Iterator[tuple[AgentProcess, int]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = {"AIMASS_EDGE_TCP__ENABLED": "true", "AIMASS_EDGE_TCP__PORT": str(port)}
        with AgentProcess(home.folder, settings) as agent:
            yield agent, port

    def get(self, port: int, path: str, headers: dict[str, str]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        body = json.loads(reply.read())
        connection.close()
        return reply.status, body

    def test_a_program_with_the_token_is_answered(self, door: tuple[AgentProcess, int]) -> None:
        agent, port = door
        token_file = agent.home / "door.token"
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"}
        assert self.get(port, "/v2/models/add", headers)[1]["versions"] == ["3"]

    def test_web_pages_rebound_names_and_strangers_are_refused(self, door: tuple[AgentProcess, int]) -> None:
        agent, port = door
        good = {"Authorization": f"Bearer {(agent.home / 'door.token').read_text().strip()}"}
        assert self.get(port, "/v2", {})[0] == 401
        assert self.get(port, "/v2", {**good, "Origin": "https://evil.example"})[0] == 403
        assert self.get(port, "/v2", {**good, "Host": f"evil.example:{port}"})[0] == 403

    def test_a_token_that_others_can_read_is_refused_at_start(self, home: EnrolledHome) -> None:
        token = home.folder / "door.token"
        token.write_text("secret\n")
        token.chmod(0o644)
        done = run_edge(home.folder, "run", env={"AIMASS_EDGE_TCP__ENABLED": "true", "AIMASS_EDGE_TCP__PORT": "0"})
        assert done.returncode == 1
        assert f"chmod 600 {token}" in done.stderr

    @pytest.mark.parametrize("path", ["/v1/agent/status", "/v1/agent/models", "/v1/agent/outbox/x"])
    def test_management_is_not_there(self, door: tuple[AgentProcess, int], path: str) -> None:
        agent, port = door
        headers = {"Authorization": f"Bearer {(agent.home / 'door.token').read_text().strip()}"}
        assert self.get(port, path, headers)[0] == 404

    def test_it_listens_on_loopback_only(self, door: tuple[AgentProcess, int]) -> None:
        agent, _ = door
        pid = agent.process.pid  # type: ignore[union-attr]
        listening = [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        assert {one.laddr.ip for one in listening} == {"127.0.0.1"}


class TestCommands:
    def test_status_for_people_and_for_programs(self, agent: AgentProcess) -> None:
        shown = run_edge(agent.home, "status")
        assert shown.returncode == 0
        assert "gw-1" in shown.stdout
        assert "add" in shown.stdout
        assert json.loads(run_edge(agent.home, "status", "--json").stdout)["id"] == "gw-1"

    def test_status_without_an_agent_says_so(self, home: EnrolledHome) -> None:
        done = run_edge(home.folder, "status")
        assert done.returncode == 1
        assert "aimass-edge run" in done.stderr

    def test_check_finds_what_is_wrong_and_says_what_to_do(self, agent: AgentProcess) -> None:
        done = run_edge(agent.home, "check", "--json")
        assert done.returncode == 1
        checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
        assert checks["cloud"]["state"] == "fail"
        assert checks["broker"]["state"] == "fail"
        assert checks["broker"]["advice"]
        for good in ("home folder", "settings", "identity", "certificate", "agent", "engine onnxruntime"):
            assert checks[good]["state"] == "pass", checks[good]

    def test_check_is_a_numbered_list_for_people(self, home: EnrolledHome) -> None:
        done = run_edge(home.folder, "check")
        assert done.returncode == 1
        assert done.stdout.startswith(" 1. pass  home folder")
        assert "->" in done.stdout

    def test_install_dry_run_prints_the_unit_and_touches_nothing(self, short_tmp: Path) -> None:
        done = run_edge(short_tmp / "home", "install", "--user", "aimass", "--dry-run")
        assert "Restart=always" in done.stdout
        assert "User=aimass" in done.stdout
        assert not (short_tmp / "home").exists()

    def test_a_damaged_token_is_refused(self, short_tmp: Path) -> None:
        done = run_edge(short_tmp / "home", "enrol", "aimass1.nonsense")
        assert done.returncode == 1
        assert "enrol-token" in done.stderr
        assert "Traceback" not in done.stderr
