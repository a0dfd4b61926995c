"""The broker's configuration file, and finding its programs."""

from pathlib import Path

import pytest

from aimass.errors import ConfigError
from aimass_cloud.broker.config import BrokerConfig, effective_user, find_mosquitto, find_plugin, render


def config(**changes: object) -> BrokerConfig:
    folder = Path("/srv/ai mass/broker")
    values: dict = {
        "folder": folder,
        "bind": "0.0.0.0",
        "port": 8883,
        "ca_file": folder / "ca.pem",
        "server_pem": folder / "server.pem",
        "crl_file": folder / "crl.pem",
        "mosquitto": Path("/usr/sbin/mosquitto"),
        "plugin": Path("/usr/lib/x/mosquitto_dynamic_security.so"),
        "user": "aimass",
    }
    return BrokerConfig(**{**values, **changes})


def options(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [(key, value) for key, _, value in (line.partition(" ") for line in lines)]


def test_demands_a_certificate_and_takes_the_identity_from_it() -> None:
    made = dict(options(render(config())))
    for key in ("require_certificate", "use_identity_as_username", "use_username_as_clientid", "set_tcp_nodelay"):
        assert made[key] == "true"
    assert made["allow_anonymous"] == "false"
    assert made["tls_version"] == "tlsv1.2"
    assert all(suite.startswith("ECDHE-ECDSA-") for suite in made["ciphers"].split(":"))
    assert made["crlfile"] == "/srv/ai mass/broker/crl.pem"
    assert made["plugin_opt_config_file"] == "/srv/ai mass/broker/dynamic-security.json"


def test_bounds_every_queue() -> None:
    made = dict(options(render(config())))
    assert made["max_packet_size"] == str(4 * 1024 * 1024)
    assert made["max_inflight_messages"] == "400"
    assert made["max_queued_messages"] == "2000"
    assert int(made["max_queued_bytes"]) > 0
    assert (made["persistence"], made["autosave_interval"]) == ("true", "60")


def test_what_belongs_to_the_listener_stands_below_it() -> None:
    keys = [key for key, _ in options(render(config()))]
    listener = keys.index("listener")
    for key in ("cafile", "require_certificate", "use_identity_as_username", "use_username_as_clientid", "crlfile"):
        assert keys.index(key) > listener
    assert keys.count("listener") == 1


def test_runs_as_whoever_starts_it() -> None:
    assert dict(options(render(config())))["user"] == "aimass"
    assert "user" not in dict(options(render(config(user=""))))
    assert effective_user()


@pytest.mark.parametrize("bind", ["0.0.0.0\nallow_anonymous true", "", " 1.2.3.4", "a\tb"])
def test_a_value_that_would_become_another_option_is_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match="value of"):
        render(config(bind=bind))


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="mosquitto is not installed") as caught:
        find_mosquitto([str(tmp_path)])
    assert "apt-get install mosquitto" in caught.value.hint


def test_finds_the_program_where_only_root_has_it_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "sbin" / "mosquitto"
    program.parent.mkdir()
    program.touch(mode=0o755)
    assert find_mosquitto([str(program.parent)]) == program


def test_finds_the_plugin_in_a_folder_named_after_the_architecture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plug-in") as caught:
        find_plugin([tmp_path / "none", tmp_path])
    assert "apt-get install mosquitto" in caught.value.hint
    plugin = tmp_path / "aarch64-linux-gnu" / "mosquitto_dynamic_security.so"
    plugin.parent.mkdir()
    plugin.touch()
    assert find_plugin([tmp_path / "none", tmp_path]) == plugin
