"""Recipe keys of version 0.1 that have other names now: errors name the new one, runs of that version still open."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RUN_FILES = ("result.json", "metrics.jsonl", "log.txt", "checkpoints")


@dataclass(frozen=True)
class Renamed:
    """One change of a task's keys.

    Attributes:
        old: the dotted key of version 0.1.
        new: what it is called now; empty where it is gone.
        values: old value -> new value, for those that are written differently now; others stay.
        methods: of these methods only; empty: of all.
        when: a dotted key that has to be there, too, for the old meaning.
        hint: what to write instead of a key that is gone.
    """

    old: str
    new: str
    values: Mapping[Any, Any] | None = None
    methods: tuple[str, ...] = ()
    when: str = ""
    hint: str = ""

    def message(self, value: Any) -> str:
        """Why the old key is an error, and what to write."""
        if not self.new:
            return f"this key is gone; {self.hint}" if self.hint else "this key is gone"
        new_value = self._new_value(value)
        if self.new == self.old:
            return f"{_plain(value)} is now called {_plain(new_value)}"
        same = isinstance(value, Mapping) or (new_value is value)
        return f"is now called {self.new!r}" + ("" if same else f", and {_plain(value)} {_plain(new_value)}")

    def apply(self, data: dict[str, Any], before: Mapping[str, Any]) -> None:
        """Change ``data`` in place, if it has the old key; ``before`` is what the file says."""
        if self.methods and before.get("method") not in self.methods:
            return
        if self.when and _find(before, self.when) is _NOTHING:
            return
        value = _find(data, self.old)
        if value is _NOTHING or (self.old == self.new and not self._is_changed(value)):
            return
        _remove(data, self.old)
        if self.new:
            _put(data, self.new, self._new_value(value))

    def _is_changed(self, value: Any) -> bool:
        return self._new_value(value) is not value

    def _new_value(self, value: Any) -> Any:
        for old, new in (self.values or {}).items():
            if old == value and type(old) is type(value):
                return new
        return value


@dataclass(frozen=True)
class Added:
    """A key that version 0.1 did not have, and whose default is not what that version did.

    Attributes:
        key: dotted.
        before: the value that means what version 0.1 did.
        methods: of these methods only; empty: of all.
    """

    key: str
    before: Any
    methods: tuple[str, ...] = ()

    def apply(self, data: dict[str, Any], before: Mapping[str, Any]) -> None:
        """Put the value into ``data``, if the key is not there."""
        if self.methods and before.get("method") not in self.methods:
            return
        if _find(data, self.key) is _NOTHING:
            _put(data, self.key, self.before)


Change = Renamed | Added


def upgraded(data: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """The content of a run's recipe of version 0.1 with today's keys; that of a newer one as it is."""
    content = copy.deepcopy(dict(data))
    for change in changes:
        change.apply(content, data)
    return content


def explanation(key: str, value: Any, method: Any, changes: Sequence[Change]) -> str | None:
    """What became of a key that is unknown, or of a value that is not allowed; None where neither has changed."""
    for change in changes:
        if isinstance(change, Added) or (change.methods and method not in change.methods):
            continue
        if key == change.old and (change.new != change.old or change._is_changed(value)):
            return change.message(value)
    return None


def is_of_run(place: str) -> bool:
    """Whether a recipe file is the one that a run directory keeps."""
    path = Path(place)
    return path.name == "recipe.yaml" and any((path.parent / name).exists() for name in _RUN_FILES)


_NOTHING = object()


def _find(data: Mapping[str, Any], key: str) -> Any:
    inner: Any = data
    for part in key.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return _NOTHING
        inner = inner[part]
    return inner


def _remove(data: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    inner = data
    for part in path:
        inner = inner[part]
    del inner[last]
    if path and not inner:
        _remove(data, ".".join(path))


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    inner = data
    for part in path:
        below = inner.get(part)
        if not isinstance(below, dict):
            below = {}
            inner[part] = below
        inner = below
    inner.setdefault(last, value)


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
