"""``aimass device list | show | remove``: the fleet as the cloud sees it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from aimass.cli.cloud_api import CloudApi, Json

_COLOURS = {"online": "green", "offline": "red", "unknown": "yellow", "never": "dim"}


@click.group()
def device() -> None:
    """Look at the devices of the fleet, or remove one."""


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table")
@click.pass_obj
def list_devices(connection: Any, as_json: bool) -> None:
    """State, since when, the age of the evidence, and the models of each device."""
    with connection.open() as api:
        devices = api.devices()
    if as_json:
        click.echo(json.dumps(devices))
        return
    now = datetime.now(UTC)
    table = Table()
    for title in ("device", "state", "since", "evidence", "models"):
        table.add_column(title)
    for entry in devices:
        table.add_row(*_row(entry, now))
    Console().print(table)


@device.command()
@click.argument("device_id")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON object as it came")
@click.pass_obj
def show(connection: Any, device_id: str, as_json: bool) -> None:
    """Everything known about one device."""
    with connection.open() as api:
        entry = api.device(device_id)
    click.echo(json.dumps(entry) if as_json else json.dumps(entry, indent=2))


@device.command()
@click.argument("device_id")
@click.option("--yes", is_flag=True, help="Do not ask")
@click.pass_obj
def remove(connection: Any, device_id: str, yes: bool) -> None:
    """Revoke the certificates of a device and forget it."""
    if not yes:
        click.confirm(f"Revoke the certificates of {device_id} and forget it?", abort=True)
    with connection.open() as api:
        api.remove_device(device_id)
    click.echo(f"removed {device_id}")


def reported_models(entry: Json) -> list[Json]:
    """The models a device reported last."""
    reported = entry.get("reported") or {}
    models: list[Json] = reported.get("models", [])
    return models


def running_version(api: CloudApi, device_id: str, name: str) -> tuple[int | None, Json | None]:
    """The version of a model that runs on a device, and the error of a version that failed there."""
    version, error = None, None
    for model in reported_models(api.device(device_id)):
        if model["name"] == name and model["state"] == "running":
            version = int(model["version"])
        elif model["name"] == name and model["state"] == "failed":
            error = model
    return version, error


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, for a person: 8 s, 5 min, 3 h, 12 d."""
    if moment is None:
        return "-"
    seconds = max(0.0, (now - moment).total_seconds())
    for limit, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def as_time(value: Any) -> datetime | None:
    """A moment as the cloud writes it (ISO 8601, or Unix milliseconds)."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value / 1000, UTC)
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _row(entry: Json, now: datetime) -> tuple[str, str, str, str, str]:
    state, since = str(entry["state"]), as_time(entry.get("since"))
    moment = "-" if since is None else f"{since:%Y-%m-%d %H:%M:%S} ({age(since, now)})"
    models = ", ".join(_model(model) for model in reported_models(entry)) or "-"
    evidence = age(as_time(entry.get("evidence_at")), now)
    return str(entry["id"]), f"[{_COLOURS.get(state, 'default')}]{state}[/]", moment, evidence, models


def _model(model: Json) -> str:
    text = f"{model['name']}:{model['version']}"
    return text if model["state"] == "running" else f"{text} ({model['state']})"
