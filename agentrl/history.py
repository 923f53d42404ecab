"""Memory across steps, keyed by namespace and stable task id.

Within a step readers see the committed view; writes are collected and committed once, at the
optimiser-step boundary, by a commutative reduce, so that order of arrival never matters. The whole
store is plain JSON and lives in the checkpoint. Beside single numbers a key may hold its most recent
vectors (embeddings, windows of values): a namespace has one kind or the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from agentrl.types import JsonValue

Reduce = Literal["min", "max", "sum", "count_mean", "recent"]
"""How a value joins what is there; `recent` keeps vectors, first in first out."""

_REDUCERS: Mapping[str, Callable[[float, float], float]] = {
    "min": min,
    "max": max,
    "sum": lambda a, b: a + b,
}


@dataclass(frozen=True, slots=True)
class Write:
    """One value offered for `(namespace, key)`, joined to what is there by `reduce`."""

    namespace: str
    key: str
    value: float
    reduce: Reduce
    uid: str
    """Trajectory or group it comes from; the same uid commits once per step and namespace."""
    vector: tuple[float, ...] = ()
    """With `recent`, what is remembered; `value` is then not used."""
    keep: int = 0
    """With `recent`, how many vectors the key holds at most."""


class HistoryStore:
    """Per-task numbers that outlive a step."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, tuple[float, int]]] = {}
        self._recent: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}

    def get(self, namespace: str, key: str) -> float | None:
        """The committed value; None before the first commit. For `count_mean`, the mean."""
        entry = self._values.get(namespace, {}).get(key)
        return None if entry is None else entry[0]

    def count(self, namespace: str, key: str) -> int:
        """How many writes the committed value rests on."""
        return self._values.get(namespace, {}).get(key, (0.0, 0))[1]

    def keys(self, namespace: str) -> tuple[str, ...]:
        """Keys with a committed value or vector, sorted."""
        return tuple(sorted({*self._values.get(namespace, {}), *self._recent.get(namespace, {})}))

    def recent(self, namespace: str, key: str) -> tuple[tuple[float, ...], ...]:
        """The committed vectors, oldest first; empty before the first commit."""
        return self._recent.get(namespace, {}).get(key, ())

    def commit(self, writes: Iterable[Write]) -> int:
        """Apply a step's writes, each (namespace, key, uid) once; returns how many were applied.

        Writes are applied in sorted order, so float sums do not depend on arrival.
        """
        unique = {(w.namespace, w.key, w.uid): w for w in writes}
        for write in unique.values():
            self._check(write)
        for _, write in sorted(unique.items()):
            if write.reduce == "recent":
                self._remember(write)
            else:
                self._apply(write)
        return len(unique)

    def _check(self, write: Write) -> None:
        """Raises ValueError on a write that does not fit its namespace."""
        recent = write.reduce == "recent"
        if write.namespace in (self._values if recent else self._recent):
            raise ValueError(f"history {write.namespace!r} holds numbers or vectors, not both")
        if recent and (write.keep < 1 or not write.vector):
            raise ValueError(f"history {write.namespace!r}: `recent` needs a vector and keep >= 1")

    def _remember(self, write: Write) -> None:
        room = self._recent.setdefault(write.namespace, {})
        room[write.key] = (*room.get(write.key, ()), write.vector)[-write.keep :]

    def _apply(self, write: Write) -> None:
        room = self._values.setdefault(write.namespace, {})
        if write.key not in room:
            room[write.key] = (write.value, 1)
            return
        old, n = room[write.key]
        if write.reduce == "count_mean":
            room[write.key] = (old + (write.value - old) / (n + 1), n + 1)
        else:
            room[write.key] = (_REDUCERS[write.reduce](old, write.value), n + 1)

    def to_json(self) -> Mapping[str, JsonValue]:
        """Everything committed, for the checkpoint."""
        numbers = {
            space: {key: [value, n] for key, (value, n) in sorted(room.items())}
            for space, room in sorted(self._values.items())
        }
        vectors = {
            space: {"recent": {key: [list(v) for v in kept] for key, kept in sorted(room.items())}}
            for space, room in sorted(self._recent.items())
        }
        return {**numbers, **vectors}

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> HistoryStore:
        """The store `to_json` wrote."""
        store = cls()
        for space, room in data.items():
            vectors = cast(Mapping[str, object], room).get("recent")
            if isinstance(vectors, Mapping):
                kept = cast(Mapping[str, list[list[float]]], vectors)
                store._recent[space] = {k: tuple(map(tuple, vs)) for k, vs in kept.items()}
                continue
            entries = cast(Mapping[str, tuple[float, int]], room)
            store._values[space] = {k: (float(v), int(n)) for k, (v, n) in entries.items()}
        return store
