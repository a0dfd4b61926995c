"""Settings of the cloud: which source wins, and what is refused."""

from pathlib import Path

import pytest

from aimass.errors import ConfigError
from aimass_cloud.settings import load_settings, write_settings


def write(folder: Path, text: str) -> Path:
    (folder / "cloud.toml").write_text(text)
    return folder


def test_everything_has_a_default(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert (settings.https.port, settings.broker.port) == (8443, 8883)
    assert settings.lifetimes.device_s == 30 * 86400
    assert settings.uploads.max_model_bytes == 2 * 1024**3
    assert (settings.broker_host, settings.broker_port) == ("localhost", 8883)


def test_reads_back_what_init_wrote(tmp_path: Path) -> None:
    write_settings(tmp_path / "state", hosts=["cloud.example", "::1"], https_port=9443, broker_port=9883)
    settings = load_settings(tmp_path / "state")
    assert settings.hosts == ("cloud.example", "::1")
    assert (settings.https.port, settings.broker.port) == (9443, 9883)


def test_the_command_line_beats_the_environment_and_that_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[lifetimes]\ndevice_s = 120\nservice_s = 130\ncrl_s = 140\n")
    monkeypatch.setenv("AIMASS_CLOUD_LIFETIMES__SERVICE_S", "230")
    monkeypatch.setenv("AIMASS_CLOUD_LIFETIMES__CRL_S", "240")
    lifetimes = load_settings(tmp_path, {"lifetimes": {"crl_s": 340}}).lifetimes
    assert (lifetimes.device_s, lifetimes.service_s, lifetimes.crl_s) == (120, 230, 340)


def test_hosts_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMASS_CLOUD_HOSTS", '["a.example"]')
    assert load_settings(tmp_path).hosts == ("a.example",)


def test_devices_are_told_the_public_address_of_the_broker(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"broker": {"public_host": "mqtt.example", "public_port": 443}})
    assert (settings.broker_host, settings.broker_port) == ("mqtt.example", 443)


@pytest.mark.parametrize("text", ["colour = 1", "[broker]\ncolour = 1", "[colour]\nx = 1"])
def test_a_key_nobody_knows_is_refused_with_its_name_and_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"colour.*is not a setting.*cloud\.toml"):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize("name", ["AIMASS_CLOUD_COLOUR", "AIMASS_CLOUD_BROKER__COLOUR", "AIMASS_CLOUD_HOSTS__X"])
def test_a_variable_nobody_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=name):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[broker]\nport = 70000", "broker.port"),
        ("[broker]\nport = 'x'", "broker.port"),
        ("[lifetimes]\ndevice_s = 1", "lifetimes.device_s"),
        ("[pool]\nname = 'A B'", "pool.name"),
        ("[pool]\nworkers = -1", "pool.workers"),
        ("[uploads]\nmax_model_bytes = 0", "uploads.max_model_bytes"),
    ],
)
def test_a_value_out_of_range_is_refused_with_key_and_file(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"cloud\.toml") as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.key == key


def test_the_error_names_the_source_of_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="command line"):
        load_settings(tmp_path, {"broker": {"port": 0}})
    monkeypatch.setenv("AIMASS_CLOUD_BROKER__PORT", "0")
    with pytest.raises(ConfigError, match="AIMASS_CLOUD_BROKER__PORT"):
        load_settings(tmp_path)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cloud\.toml is not TOML"):
        load_settings(write(tmp_path, "hosts = ["))


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.grace_s = 1
