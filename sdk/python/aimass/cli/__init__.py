"""The ``aimass`` command: for developers and operators. ``main.py`` has the command itself."""

from __future__ import annotations

import sys


def run() -> None:
    """Entry point of the console script; says which extra is missing instead of a trace."""
    try:
        from aimass.cli.main import main
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] in ("click", "rich", "httpx"):
            sys.exit(f"aimass: the package {exc.name} is missing. Install it with: pip install 'aimass[cli]'")
        raise
    main()
