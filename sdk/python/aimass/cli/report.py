"""The demo's result: a table for a person, one JSON object for a program, and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from aimass.cli.load import Row, Tally

MIN_ACCURACY = 0.95
COUNTS = ("count", "p50 ms", "p99 ms", "accu-\nracy", "fall-\nbacks", "fail-\nures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the demo measured."""

    tally: Tally
    stored: Counter[Row]
    requests: int
    duplicates: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        tally = self.tally
        return {
            "requests": self.requests,
            "failed": tally.failed,
            "accuracy": round(tally.share_correct(), 4),
            "offloaded": tally.offloaded(),
            "fallbacks": sum(tally.fallbacks.values()),
            "outbox_sent": sum(tally.sent.values()),
            "outbox_stored": sum(self.stored.values()),
            "outbox_duplicates": self.duplicates,
            "seconds": round(self.seconds, 1),
            "errors": dict(tally.errors),
            "rows": [self._row_dict(row) for row in sorted(tally.latencies_ms)],
        }

    def table(self) -> Table:
        """One row for each model, engine and place; fits into 100 columns."""
        table = Table(title="answers by model, engine and place", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for title in ("model", "engine", "served_by"):
            table.add_column(title, no_wrap=True)
        for title in (
            "count",
            "p50 ms",
            "p99 ms",
            "accuracy",
            "fallbacks",
            "failures",
            "outbox\nsent",
            "outbox\nstored",
        ):
            table.add_column(title, justify="right")
        for row in sorted(self.tally.latencies_ms):
            one = self._row_dict(row)
            times = (f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", f"{one['accuracy']:.3f}")
            kept = (str(one["outbox_sent"]), str(one["outbox_stored"]))
            table.add_row(*row, str(one["count"]), *times, str(one["fallbacks"]), "", *kept)
        whole = self.as_dict()
        kept = (str(whole["outbox_sent"]), str(whole["outbox_stored"]))
        counts = (str(whole["fallbacks"]), str(whole["failed"]))
        table.add_section()
        table.add_row("all", "", "", str(whole["requests"]), "", "", f"{whole['accuracy']:.3f}", *counts, *kept)
        return table

    def complaints(self) -> list[str]:
        """What did not go as promised; empty when all is well."""
        whole = self.as_dict()
        checks: Sequence[tuple[bool, str]] = (
            (whole["failed"] == 0, f"{whole['failed']} requests failed: {whole['errors']}"),
            (whole["accuracy"] >= MIN_ACCURACY, f"accuracy {whole['accuracy']} is below {MIN_ACCURACY}"),
            (whole["offloaded"] > 0, "no request was answered by the cloud"),
            (whole["fallbacks"] > 0, "no fallback was seen although the broker was killed"),
            (
                whole["outbox_sent"] == whole["outbox_stored"],
                f"{whole['outbox_sent']} records were sent, {whole['outbox_stored']} are stored",
            ),
            (self.duplicates == 0, f"{self.duplicates} records are stored twice"),
        )
        return [text for holds, text in checks if not holds]

    def _row_dict(self, row: Row) -> dict[str, Any]:
        tally, values = self.tally, self.tally.latencies_ms[row]
        return {
            "model": row[0],
            "engine": row[1],
            "served_by": row[2],
            "count": len(values),
            "p50_ms": round(float(np.percentile(values, 50)), 3),
            "p99_ms": round(float(np.percentile(values, 99)), 3),
            "accuracy": round(tally.correct[row] / len(values), 4),
            "fallbacks": tally.fallbacks[row],
            "outbox_sent": tally.sent[row],
            "outbox_stored": self.stored[row],
        }
