"""The list of what shall run here, kept over restarts: where an agent without network starts from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from aimass.device.files import Disk, write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """A version that shall run.

    Attributes:
        name: the model.
        version: its version.
        default: whether requests without a version get this one.
    """

    name: str
    version: int
    default: bool = True


class ActiveList:
    """A small file: the active versions, and for each model the version before.

    It says names and numbers only. What is loaded by it is checked like anything else on the disk.

    Args:
        path: the file.
        disk: where it is written.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk

    def read(self) -> tuple[tuple[ActiveModel, ...], dict[str, int]]:
        """The active versions, and the previous one of each model; nothing when the file is absent or damaged."""
        try:
            body = json.loads(self._path.read_bytes())
            active = tuple(ActiveModel(str(m["name"]), int(m["version"]), bool(m["default"])) for m in body["active"])
            previous = {str(name): int(version) for name, version in body["previous"].items()}
        except FileNotFoundError:
            return (), {}
        except (ValueError, KeyError, TypeError, AttributeError):
            log.exception("%s is damaged; nothing is started from it", self._path.name)
            return (), {}
        return active, previous

    def replace(self, models: Iterable[ActiveModel]) -> None:
        """Write a new list. The default version that gives way becomes the previous one of its model.

        Raises:
            NoSpaceError: the disk is full; the old list stands.
        """
        new = tuple(sorted(set(models), key=lambda model: (model.name, model.version)))
        old, previous = self.read()
        if new == old:
            return
        names, running = {model.name for model in new}, {(model.name, model.version) for model in new}
        previous |= {model.name: model.version for model in old if model.default and _key(model) not in running}
        kept = {name: version for name, version in previous.items() if name in names and (name, version) not in running}
        body = {"active": [asdict(model) for model in new], "previous": kept}
        write_atomic(self._path, json.dumps(body, indent=1).encode(), disk=self._disk)


def _key(model: ActiveModel) -> tuple[str, int]:
    return model.name, model.version
