"""Messages that are sent and not yet answered by the broker: bounded, and failed together when the link goes."""

from __future__ import annotations

from aimass.errors import OverloadError
from aimass.transport.base import Receipt


class InFlight:
    """Receipts by packet id. Not thread-safe: the transport holds its lock.

    Args:
        max_messages: bound of the number.
        max_bytes: bound of the payloads together; a stalled link must not eat the memory of a small device.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._receipts: dict[int, tuple[Receipt, int]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._receipts)

    def check_room(self, payload_bytes: int) -> None:
        """Raise when one more does not fit.

        Raises:
            OverloadError: try again when some are answered.
        """
        if len(self._receipts) >= self._max_messages:
            raise OverloadError(f"{len(self._receipts)} messages are in flight already", limit=self._max_messages)
        # One message always fits when nothing else is under way: its size is checked against the packet limit.
        if self._receipts and self._bytes + payload_bytes > self._max_bytes:
            raise OverloadError(f"{self._bytes} bytes are in flight already", limit_bytes=self._max_bytes)

    def add(self, packet_id: int, receipt: Receipt, payload_bytes: int) -> None:
        """Keep a receipt until its answer."""
        self._receipts[packet_id] = (receipt, payload_bytes)
        self._bytes += payload_bytes

    def take(self, packet_id: int) -> Receipt | None:
        """The receipt that this answer is for; None when it is not ours (any more)."""
        entry = self._receipts.pop(packet_id, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]

    def take_all(self) -> list[Receipt]:
        """Every receipt, to be failed; nothing is in flight afterwards."""
        receipts = [receipt for receipt, _ in self._receipts.values()]
        self._receipts.clear()
        self._bytes = 0
        return receipts
