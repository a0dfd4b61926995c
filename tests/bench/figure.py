"""One measured figure and its bar; what every benchmark function returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A number with its unit and the bar we hold ourselves to.

    Args:
        name: stable; later runs are compared by it.
        value: the measurement (of several repeats: their median, unless the name says otherwise).
        unit: "us", "ms", "s", "ratio", "kb", "mb", "1/s".
        bar: the limit; None for a figure that is only told.
        at_least: True where more is better; otherwise the value must be at most the bar.
        note: how it was measured, in a few words, for the table.
        holds: judged from value and bar, unless the benchmark judges it (e.g. "0 within noise").
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    at_least: bool = False
    note: str = ""
    holds: bool | None = None

    def judged(self) -> bool:
        """Whether the bar is met; a figure without a bar always holds."""
        if self.holds is not None:
            return self.holds
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar
