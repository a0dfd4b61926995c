"""Enrolling an application's own home, for `aimass.embed`."""

from __future__ import annotations

import os
from pathlib import Path

from aimass.device import enrol as device_enrol
from aimass.device.identity import Identity


def enrol(token: str, home: str | os.PathLike[str], *, replace: bool = False) -> Identity:
    """Get an identity for a folder of this application's own; `aimass.embed(home=...)` uses it from then on.

    Args:
        token: what `aimass-cloud enrol-token ID:ROLE` printed.
        home: the folder; made when missing.
        replace: give up the identity that is there. Without it the same token may be used again, and any other is
            refused.

    Raises:
        EnrolError: the token is refused, or the cloud is not the one that made it.
        ConnectError: the cloud cannot be reached; the same token may be used again.
    """
    return device_enrol.enrol(token, Path(home), replace=replace)
