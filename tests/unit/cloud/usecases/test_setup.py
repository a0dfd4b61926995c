"""Making a cloud, and the commands that need none running."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from aimass.device.enrol import EnrolToken
from aimass.errors import ConfigError, ConflictError
from aimass_cloud.__main__ import main
from aimass_cloud.settings import load_settings
from aimass_cloud.store.sql import SqlStore
from aimass_cloud.usecases.setup import NewCloud, is_made, make_cloud


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., NewCloud]:
    def make(folder: str = "cloud", **options: Any) -> NewCloud:
        told = {"hosts": ["cloud.test"], "https_port": 8443, "broker_port": 8883, **options}
        return make_cloud(tmp_path / folder, check_broker=lambda: None, **told)

    return make


def aimass_cloud(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_new_cloud_has_all_it_needs_and_only_the_digest_of_its_key(make: Callable[..., NewCloud]) -> None:
    made = make()
    for name in (
        "pki/root.pem",
        "pki/root/root.key",
        "keys/publisher.pem",
        "keys/control.pem",
        "aimass.db",
        "cloud.toml",
    ):
        assert (made.state_dir / name).is_file(), name
    for name in ("pki/root/root.key", "pki/intermediate.key", "keys/publisher.pem", "keys/control.pem"):
        assert (made.state_dir / name).stat().st_mode & 0o077 == 0, name
    store = SqlStore.open(made.state_dir / "aimass.db")
    with store.read() as tx:
        assert tx.api_keys.verify(made.api_key).name == "first"
        assert [device.id for device in tx.devices.list()] == ["svc:control"]
    store.close()
    secret = made.api_key.split("_", 2)[2].encode()  # it may hold an underscore itself
    assert not any(secret in path.read_bytes() for path in made.state_dir.rglob("*") if path.is_file())


def test_the_settings_say_where_to_listen(make: Callable[..., NewCloud]) -> None:
    made = make(hosts=["10.0.0.5", "fe80::1"], https_port=1234, broker_port=1235, bind="127.0.0.1")
    settings = load_settings(made.state_dir)
    assert (settings.hosts, settings.https.port, settings.broker.port) == (("10.0.0.5", "fe80::1"), 1234, 1235)
    assert settings.https.bind == settings.broker.bind == "127.0.0.1"
    assert tomllib.loads((made.state_dir / "cloud.toml").read_text())["hosts"] == ["10.0.0.5", "fe80::1"]


def test_a_second_one_in_the_same_folder_is_refused(make: Callable[..., NewCloud]) -> None:
    made = make()
    root = (made.state_dir / "pki" / "root.pem").read_bytes()
    with pytest.raises(ConflictError):
        make()
    assert (made.state_dir / "pki" / "root.pem").read_bytes() == root


def test_a_folder_with_other_things_in_it_is_refused(make: Callable[..., NewCloud], tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError, match="not empty"):
        make()
    assert (tmp_path / "cloud" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("options", [{"hosts": ["no host"]}, {"hosts": ["a/b"]}, {"bind": "everywhere"}])
def test_addresses_that_are_none_are_refused_and_leave_no_cloud(
    make: Callable[..., NewCloud], tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        make(**options)
    assert not is_made(tmp_path / "cloud")


def test_an_init_that_broke_off_can_be_repeated(make: Callable[..., NewCloud], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make(hosts=["no host"])
    (tmp_path / "cloud" / "pki").mkdir()  # as if it had broken off while moving things to their place
    made = make()
    assert is_made(made.state_dir)
    assert not (made.state_dir / ".init").exists()


def test_a_machine_without_broker_is_told_before_anything_is_made(tmp_path: Path) -> None:
    def missing() -> None:
        raise ConfigError("mosquitto is not installed")

    with pytest.raises(ConfigError):
        make_cloud(tmp_path / "cloud", hosts=["h"], https_port=1, broker_port=2, check_broker=missing)
    assert not (tmp_path / "cloud").exists()


def test_enrol_token_prints_one_line_that_a_device_can_read(make: Callable[..., NewCloud]) -> None:
    made = make()
    result = aimass_cloud("--dir", made.state_dir, "enrol-token", "gw-1")
    assert result.exit_code == 0, result.output
    token = EnrolToken.parse(result.stdout)
    assert (token.id, token.url, token.ca) == ("gw-1", "https://cloud.test:8443", made.root_sha256)


def test_enrol_token_as_json_says_when_it_ends(make: Callable[..., NewCloud]) -> None:
    result = aimass_cloud("--dir", make().state_dir, "enrol-token", "svc:worker-9", "--ttl", "60", "--json")
    body = json.loads(result.stdout)
    assert body["id"] == "svc:worker-9"
    assert body["expires_at"].endswith("+00:00")
    assert EnrolToken.parse(body["token"]).id == "svc:worker-9"


def test_a_name_that_is_no_device_is_refused_with_a_hint(make: Callable[..., NewCloud]) -> None:
    result = aimass_cloud("--dir", make().state_dir, "enrol-token", "Gate Way")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")
    assert "\nhint: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words", [("run",), ("enrol-token", "gw-1"), ("backup", "b"), ("enrol-token", "gw-1", "--json")]
)
def test_without_a_cloud_the_commands_say_how_to_make_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = aimass_cloud(
        "--dir", tmp_path / "nothing", *[str(tmp_path / "b") if word == "b" else word for word in words]
    )
    assert result.exit_code == 1
    assert "there is no cloud in" in result.stderr
    if "--json" in words:
        assert json.loads(result.stdout)["error"]["code"] == "config"


@pytest.mark.parametrize("words", [(), ("--nonsense",), ("init",), ("enrol-token",), ("restore", "/does/not/exist")])
def test_wrong_usage_ends_with_two(words: tuple[str, ...]) -> None:
    assert aimass_cloud(*words).exit_code == 2


def test_a_worker_without_identity_and_token_is_refused(tmp_path: Path) -> None:
    result = aimass_cloud("worker", "--home", tmp_path / "home")
    assert result.exit_code != 0
    assert "error: " in result.stderr


def test_every_command_has_help_with_an_example() -> None:
    for name in main.list_commands(click.Context(main)):
        result = aimass_cloud(name, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output, name


def test_a_backup_goes_into_a_file_and_back(make: Callable[..., NewCloud], tmp_path: Path) -> None:
    made = make()
    file = tmp_path / "backups" / "monday.tar.gz"
    assert aimass_cloud("--dir", made.state_dir, "backup", file).exit_code == 0
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in file.parent.iterdir()] == ["monday.tar.gz"]
    assert aimass_cloud("--dir", made.state_dir, "backup", file).exit_code == 3
    restored = aimass_cloud("--dir", tmp_path / "other", "restore", file, "--json")
    assert restored.exit_code == 0, restored.output
    store = SqlStore.open(tmp_path / "other" / "aimass.db")
    with store.read() as tx:
        assert tx.api_keys.verify(made.api_key).name == "first"
    assert store.epoch == json.loads(restored.stdout)["epoch"]
    store.close()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    result = aimass_cloud("--dir", tmp_path / "cloud", "restore", tmp_path / "x.tar.gz")
    assert (result.exit_code, "is not a backup" in result.stderr) == (1, True)
