"""The status as a person sees it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from aimass_edge.show import print_status

STATUS: dict[str, Any] = {
    "id": "gw-1",
    "version": "0.1.0",
    "pid": 7,
    "link": {"up": False, "broker": "localhost:8883", "refusals": {"aimass/v1/x": 135}},
    "certificate": {"days_left": 12.34},
    "outbox": {"pending": 5},
    "metrics": {"fallbacks": 2, "models": {"digits": {"count": 9, "p50_ms": 0.5, "p99_ms": 1.25}}},
    "models": [
        {"name": "digits", "version": 3, "state": "running", "engine": "onnxruntime", "error": None},
        {"name": "[bold]bad", "version": 1, "state": "failed", "engine": "", "error": {"message": "[x] broke"}},
    ],
}


def shown(status: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_status(status, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_it_tells_how_the_agent_stands() -> None:
    text = shown(STATUS)
    for part in ("gw-1", "down (localhost:8883), refused: aimass/v1/x", "12.3 days", "5 records", "9", "0.50", "1.25"):
        assert part in text


def test_names_from_outside_are_not_taken_for_markup() -> None:
    text = shown(STATUS)
    assert "[bold]bad" in text
    assert "[x] broke" in text


def test_without_models_it_says_what_to_do() -> None:
    assert "deploy" in shown({**STATUS, "models": []})
