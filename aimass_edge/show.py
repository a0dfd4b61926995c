"""The agent's status for a person at a terminal. The only part of the agent that draws tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_status(status: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints two tables: how the agent stands, and its models."""
    console = console or Console()
    about = Table(show_header=False, box=None)
    for name, value in _lines(status):
        about.add_row(Text(name, style="bold"), Text(value))
    console.print(about)
    if status["models"]:
        console.print(_models(status))
    else:
        console.print("no models yet: deploy one from the cloud")


def _lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    link, process = status["link"], status.get("process", {})
    refused = f", refused: {', '.join(link['refusals'])}" if link.get("refusals") else ""
    return [
        ("agent", f"{status['id']}, version {status['version']}, process {status['pid']}"),
        ("link", f"{'up' if link['up'] else 'down'} ({link.get('broker', '')}){refused}"),
        ("certificate", f"{status['certificate']['days_left']:.1f} days left"),
        ("outbox", f"{status['outbox']['pending']} records wait for the cloud"),
        ("fallbacks", str(status["metrics"].get("fallbacks", 0))),
        ("memory", f"{process.get('rss_bytes', 0) / 1e6:.0f} MB, {process.get('cpu_percent', 0):.1f} % CPU"),
    ]


def _models(status: Mapping[str, Any]) -> Table:
    table = Table("model", "version", "state", "engine", "requests", "p50 ms", "p99 ms", "error")
    measured = status["metrics"]["models"]
    for one in status["models"]:
        seen = measured.get(one["name"], {})
        table.add_row(
            Text(one["name"]),
            str(one["version"]),
            one["state"],
            one.get("engine") or "",
            str(seen.get("count", 0)),
            _ms(seen.get("p50_ms")),
            _ms(seen.get("p99_ms")),
            Text((one.get("error") or {}).get("message", "")),
        )
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
