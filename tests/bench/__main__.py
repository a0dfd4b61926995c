"""Runs the benchmarks and prints one table: ``python -m tests.bench [--only WORD] [--list]``.

A benchmark is a function ``bench_*()`` without arguments in a module ``tests/bench/bench_*.py``. It returns (or yields)
figures: ``Figure`` objects (see ``figure.py``). Each module runs in a process of its own, one after the other, so that
none disturbs the memory, threads or engine pools of another.

Beside the table it writes ``build/bench/bench.json``: a list of objects with name, value, unit, bar, holds, commit.
The exit code is 0 only when every benchmark ran and every bar holds.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figure import Figure

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODULE_TIMEOUT_S = 900


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the modules whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the modules and stop")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "bench.json")
    parser.add_argument("--module", help=argparse.SUPPRESS)  # the child process: run one module, write its figures
    args = parser.parse_args()
    if args.module:
        return run_one(args.module, args.out)
    modules = sorted(path.stem for path in HERE.glob("bench_*.py") if args.only in path.stem)
    if args.list or not modules:
        print("\n".join(modules) or "no benchmark matches")
        return 0 if modules else 2
    return run_all(modules, args.out)


def run_all(modules: list[str], out: Path) -> int:
    """Each module in its own process; the table and the file at the end."""
    console, commit = Console(), current_commit()
    results: list[dict[str, Any]] = []
    broken: list[str] = []
    for number, module in enumerate(modules, 1):
        console.print(f"[{number}/{len(modules)}] {module} ...", markup=False)
        started = time.monotonic()
        figures = in_child(module)
        if figures is None:
            broken.append(module)
        results += [{**figure, "commit": commit} for figure in figures or []]
        console.print(f"    {len(figures or [])} figures in {time.monotonic() - started:.0f} s", markup=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    keys = ("name", "value", "unit", "bar", "holds", "commit")
    out.write_text(json.dumps([{key: result[key] for key in keys} for result in results], indent=1) + "\n")
    console.print(as_table(results, commit))
    console.print(f"written to {out}", markup=False)
    for module in broken:
        console.print(f"did not finish: {module} (its output is above)", style="bold red", markup=False)
    return 0 if not broken and all(result["holds"] for result in results) else 1


def in_child(module: str) -> list[dict[str, Any]] | None:
    """The figures of one module, or None when it failed; what it prints goes through."""
    with tempfile.TemporaryDirectory(prefix="aimass-bench-") as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "tests.bench", "--module", module, "--out", str(out)]
        try:
            code = subprocess.run(command, cwd=ROOT, timeout=MODULE_TIMEOUT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            return None
        return json.loads(out.read_text()) if code == 0 else None


def run_one(module: str, out: Path) -> int:
    """Run the functions of one module here."""
    figures = [as_dict(figure) for figure in measure(module)]
    out.write_text(json.dumps(figures))
    return 0


def measure(module: str) -> Iterator[Figure]:
    """All figures of a module, in the order of its functions."""
    loaded = importlib.import_module(f"tests.bench.{module}")
    functions = [f for name, f in vars(loaded).items() if name.startswith("bench_") and inspect.isfunction(f)]
    for function in functions:
        if function.__module__ == loaded.__name__:
            result = function()
            yield from result if isinstance(result, Iterable) else [result]


def as_dict(figure: Figure) -> dict[str, Any]:
    """A figure as plain values."""
    return {
        "name": figure.name,
        "value": round(float(figure.value), 6),
        "unit": figure.unit,
        "bar": figure.bar,
        "at_least": figure.at_least,
        "holds": bool(figure.judged()),
        "note": figure.note,
    }


def as_table(results: list[dict[str, Any]], commit: str) -> Table:
    """The figures for a person."""
    table = Table(title=f"AI Mass benchmarks at {commit}")
    for title in ("figure", "value", "unit", "bar", "holds", "how"):
        table.add_column(title, justify="right" if title in ("value", "bar") else "left", no_wrap=title != "how")
    for result in results:
        sign = "≥" if result["at_least"] else "≤"
        bar = "" if result["bar"] is None else f"{sign} {result['bar']:g}"
        verdict = "" if result["bar"] is None else "[green]yes[/]" if result["holds"] else "[bold red]no[/]"
        table.add_row(result["name"], f"{result['value']:.4g}", result["unit"], bar, verdict, result["note"])
    return table


def current_commit() -> str:
    """The short commit id, with ``+`` when the tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else "")


if __name__ == "__main__":
    sys.exit(main())
