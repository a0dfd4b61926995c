"""Which version answers which name: read without a lock on every request, changed as a whole."""

from __future__ import annotations

import threading

from aimass.errors import ModelNotFoundError
from aimass.runtime.loaded import LoadedModel


class ModelTable:
    """Loaded versions by name and version; version "" is the default one.

    A change makes a new dictionary and switches one reference to it. A request that read the old one finds its model
    retired and looks again.
    """

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], LoadedModel] = {}  # never changed in place
        self._changing = threading.Lock()

    def find(self, name: str, version: str) -> LoadedModel | None:
        """The version that answers now, or None."""
        return self._by_key.get((name, version))

    def enter(self, name: str, version: str) -> LoadedModel | None:
        """The version that answers now, in use until the caller calls its ``leave``."""
        while True:
            found = self._by_key.get((name, version))
            if found is None or found.enter():
                return found

    def missing(self, name: str, version: str) -> ModelNotFoundError:
        """The error for a name that nothing answers."""
        versions = [model.version for model in self.all() if model.name == name]
        if not versions:
            return ModelNotFoundError(f"no model '{name[:100]}' is loaded here", model=name[:100])
        which = f"version {version[:20]}" if version else "default version"
        hint = f"loaded versions: {', '.join(versions)}"
        return ModelNotFoundError(f"model '{name}' has no {which} here", hint=hint, model=name, version=version[:20])

    def all(self) -> list[LoadedModel]:
        """Every loaded version, by name and number."""
        held = {id(model): model for model in self._by_key.values()}
        return sorted(held.values(), key=lambda model: (model.name, model.number))

    def put(self, fresh: LoadedModel, *, default: bool, keep_old: bool) -> list[LoadedModel]:
        """Let a version answer from now on. Returns the versions it takes the place of, for the caller to close."""
        with self._changing:
            by_key = dict(self._by_key)
            replaced = [by_key.get((fresh.name, fresh.version))]
            by_key[fresh.name, fresh.version] = fresh
            former = by_key.get((fresh.name, ""))
            if default or former is replaced[0] is not None:
                by_key[fresh.name, ""] = fresh
            if default and former is not None and former.version != fresh.version and not keep_old:
                del by_key[former.name, former.version]
                replaced.append(former)
            self._by_key = by_key
        return [model for model in replaced if model is not None]

    def make_default(self, name: str, version: str) -> None:
        """Let a loaded version answer requests that name none.

        Raises:
            ModelNotFoundError: it is not loaded.
        """
        with self._changing:
            found = self._by_key.get((name, version))
            if found is None:
                raise self.missing(name, version)
            self._by_key = {**self._by_key, (name, ""): found}

    def take(self, name: str, version: str | None) -> list[LoadedModel]:
        """Remove a version, or all of a name. Returns them, for the caller to close."""
        with self._changing:
            old = self._by_key
            taken = [
                model for key, model in old.items() if key[0] == name and key[1] and version in (None, model.version)
            ]
            self._by_key = {key: model for key, model in old.items() if model not in taken}
        return taken

    def take_all(self) -> list[LoadedModel]:
        """Remove everything."""
        with self._changing:
            taken = self.all()
            self._by_key = {}
        return taken
