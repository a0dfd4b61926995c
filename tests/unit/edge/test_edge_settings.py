"""The agent's settings: what is refused names key and source, what is set holds in the right order."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimass.errors import ConfigError
from aimass.placement.policy import Policy
from aimass_edge.settings import read_settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("AIMASS_"):
            monkeypatch.delenv(name)


def write(home: Path, text: str) -> Path:
    path = home / "agent.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    settings = read_settings(tmp_path)
    assert settings.heartbeat_s == 20
    assert not settings.tcp.enabled
    assert settings.offload.enabled
    assert settings.engines == ("onnxruntime", "openvino")


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'log_level = "debug"\nheartbeat_s = 5\n[tcp]\nenabled = true\nport = 9000\n')
    monkeypatch.setenv("AIMASS_EDGE_HEARTBEAT_S", "7")
    monkeypatch.setenv("AIMASS_EDGE_TCP__PORT", "9001")
    monkeypatch.setenv("AIMASS_EDGE_ENGINES", '["openvino"]')
    settings = read_settings(tmp_path)
    assert (settings.heartbeat_s, settings.tcp.port, settings.tcp.enabled) == (7, 9001, True)
    assert (settings.engines, settings.log_level) == (("openvino",), "DEBUG")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("hartbeat_s = 3", "hartbeat_s"),
        ("[tcp]\nhosts = []", "tcp.hosts"),
        ("[nothing]\nx = 1", "nothing"),
        ("heartbeat_s = 'often'", "heartbeat_s"),
        ("heartbeat_s = 0", "heartbeat_s"),
        ("[tcp]\nhost = '0.0.0.0'", "tcp.host"),
        ("[tcp]\nport = 70000", "tcp.port"),
        ("[offload]\npolicy = 'best'", "offload.policy"),
        ("[offload]\npool = 'a/b'", "offload.pool"),
        ("engines = ['tensorflow']", "engines.0"),
        ("tcp = 3", "tcp"),
    ],
)
def test_what_makes_no_sense_is_refused_naming_key_and_file(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path)
    assert caught.value.key == key
    assert key in caught.value.message
    assert str(path) in caught.value.message


def test_a_broken_file_is_refused_naming_it(tmp_path: Path) -> None:
    path = write(tmp_path, "[tcp\n")
    with pytest.raises(ConfigError, match=str(path)):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIMASS_EDGE_HARTBEAT_S", "3"),
        ("AIMASS_EDGE_TCP__HOSTS", "[]"),
        ("AIMASS_EDGE_HEARTBEAT_S", "often"),
        ("AIMASS_EDGE_ENGINES", "[openvino"),
    ],
)
def test_variables_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path)
    assert "environment" in caught.value.message or "variable" in caught.value.message


def test_the_home_variable_of_the_command_line_is_no_unknown_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMASS_EDGE_HOME", str(tmp_path))
    assert read_settings(tmp_path).offload.policy is Policy.SAVING


def test_metered_slows_the_heartbeat_and_silences_telemetry(tmp_path: Path) -> None:
    write(tmp_path, "metered = true")
    settings = read_settings(tmp_path)
    assert (settings.effective_heartbeat_s, settings.effective_telemetry_period_s) == (900, 0)
    assert settings.effective_keepalive_s == 3600


def test_a_socket_path_that_cannot_be_bound_is_refused(tmp_path: Path) -> None:
    write(tmp_path, f'socket_path = "/{"x" * 120}"')
    with pytest.raises(ConfigError, match="too long"):
        read_settings(tmp_path).socket_in(tmp_path)
