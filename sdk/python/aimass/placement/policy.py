"""The two words a caller may say about where a request runs."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Where a request may run. Splitting a model and cascades become further values here."""

    AUTO = "auto"
    """The runtime decides: on the device while it can keep the deadline, else remotely with the device as fallback."""
    EDGE = "edge"
    """On the device only."""
    CLOUD = "cloud"
    """Remotely; the device answers when the cloud does not."""


class Policy(StrEnum):
    """How device and cloud share a request that both could answer."""

    NEVER_WORSE = "never_worse"
    """Both begin at once and the first valid answer wins: never later than the device alone."""
    SAVING = "saving"
    """The cloud first; the device begins only as late as the deadline allows, or at once when the cloud fails."""
