"""What the cloud does with outbox records: stores each sequence number once, in order, and says how far it is."""

from __future__ import annotations

import copy
import json
from typing import Any


class RecordStore:
    """The cloud's side of the outbox.

    Attributes:
        epoch: when this store was made or restored.
        positions: the highest contiguous sequence stored, by (stream, stream id).
        stored: every record that was stored, gaps too, in order.
        duplicates: records that had been stored before.
        holes: records that came before what lies between.
    """

    def __init__(self, epoch: int = 1000) -> None:
        self.epoch = epoch
        self.positions: dict[tuple[str, str], int] = {}
        self.stored: list[dict[str, Any]] = []
        self.duplicates = 0
        self.holes = 0

    def take(self, stream: str, payload: bytes) -> bytes:
        """Store a batch; the acknowledgement."""
        body = json.loads(payload)
        key = (stream, body["stream_id"])
        position = self.positions.get(key, 0)
        for record in body["records"]:
            first = record["data"]["from"] if record["kind"] == "gap" else record["seq"]
            if record["seq"] <= position:
                self.duplicates += 1
            elif first <= position + 1:
                self.stored.append({**record, "stream": stream})
                position = record["seq"]
            else:
                self.holes += 1
        self.positions[key] = position
        return self.ack(stream, body["stream_id"])

    def ack(self, stream: str, stream_id: str) -> bytes:
        seq = self.positions.get((stream, stream_id), 0)
        return json.dumps({"stream": stream, "stream_id": stream_id, "seq": seq, "epoch": self.epoch}).encode()

    def backup(self) -> RecordStore:
        return copy.deepcopy(self)

    def restored(self) -> RecordStore:
        """This store as it comes back from a backup: all it had then, under a newer epoch."""
        again = copy.deepcopy(self)
        again.epoch += 1000
        return again

    def values(self, stream: str = "events") -> list[Any]:
        """The ``n`` of every record that is no gap."""
        return [one["data"]["n"] for one in self.stored if one["stream"] == stream and one["kind"] != "gap"]

    def gaps(self, stream: str = "events") -> list[dict[str, Any]]:
        return [one["data"] for one in self.stored if one["stream"] == stream and one["kind"] == "gap"]
