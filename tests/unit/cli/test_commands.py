import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from aimass.cli import main as command
from aimass.cli.devices import age, as_time
from aimass.cli.models import await_running, parse_reference
from aimass.errors import ConfigError, ModelError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("m", ("m", None, None)), ("m:3", ("m", 3, None)), ("m@champion", ("m", None, "champion"))],
)
def test_a_model_is_named_alone_with_version_or_with_alias(text: str, parts: tuple[Any, ...]) -> None:
    assert parse_reference(text) == parts


@pytest.mark.parametrize("text", ["", "m:", "m:x", "m@", "m@a:1", "m:1@a"])
def test_refuses_a_reference_that_is_neither(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (300, "5 min"), (10800, "3 h"), (1e6, "12 d")]
)
def test_ages_are_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_times_come_as_iso_text_or_milliseconds() -> None:
    assert as_time("2026-01-01T00:00:00Z") == NOW
    assert as_time(NOW.timestamp() * 1000) == NOW
    assert as_time(None) is None


def test_option_beats_environment_beats_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"url": "https://profile", "api_key": "kp", "ca": "/p/ca.pem"}))
    seen: list[command.Connection] = []

    @command.cli.command("show-connection", hidden=True)
    @click.pass_obj
    def show_connection(connection: command.Connection) -> None:
        seen.append(connection)

    try:
        environment = {"AIMASS_PROFILE": str(profile), "AIMASS_API_KEY": "ke"}
        result = CliRunner().invoke(command.cli, ["--url", "https://option", "show-connection"], env=environment)
    finally:
        del command.cli.commands["show-connection"]
    assert result.exit_code == 0, result.output
    assert seen == [command.Connection("https://option", "ke", Path("/p/ca.pem"))]


def test_a_profile_with_other_keys_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"url": "https://x", "pasword": "x"}')
    with pytest.raises(ConfigError, match="url, api_key and ca"):
        command.read_profile(profile)


def test_without_a_cloud_the_error_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="no url") as caught:
        command.Connection("", "", None).open()
    assert "AIMASS_URL" in caught.value.hint


class OneDevice:
    """Stands for the cloud: what a device reports, one answer after the other."""

    def __init__(self, *reports: list[dict[str, Any]]) -> None:
        self.reports = list(reports)

    def device(self, device_id: str) -> dict[str, Any]:
        models = self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]
        return {"id": device_id, "reported": {"models": models}}


def test_waits_until_the_device_runs_the_version() -> None:
    cloud = OneDevice(
        [], [{"name": "m", "version": 1, "state": "running"}], [{"name": "m", "version": 2, "state": "running"}]
    )
    await_running(cloud, "gw-1", "m", 2, timeout_s=5)  # type: ignore[arg-type]
    assert len(cloud.reports) == 1


def test_stops_waiting_when_the_device_reports_a_failure() -> None:
    old = {"name": "m", "version": 1, "state": "running"}
    bad = {"name": "m", "version": 2, "state": "failed", "error": {"message": "no such operator"}}
    with pytest.raises(ModelError, match="no such operator"):
        await_running(OneDevice([old, bad]), "gw-1", "m", 2, timeout_s=5)  # type: ignore[arg-type]
