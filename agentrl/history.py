"""Memory across steps, keyed by namespace and stable task id.

Within a step readers see the committed view; writes are collected and committed once, at the
optimiser-step boundary, by a commutative reduce, so that order of arrival never matters. The whole
store is plain JSON and lives in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from agentrl.types import JsonValue

Reduce = Literal["min", "max", "sum", "count_mean"]

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


class HistoryStore:
    """Per-task numbers that outlive a step."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, tuple[float, int]]] = {}

    def get(self, namespace: str, key: str) -> float | None:
        """The committed value; None before the first commit. For `count_mean`, the mean."""
        entry = self._values.get(namespace, {}).get(key)
        return None if entry is None else entry[0]

    def count(self, namespace: str, key: str) -> int:
        """How many writes the committed value rests on."""
        return self._values.get(namespace, {}).get(key, (0.0, 0))[1]

    def keys(self, namespace: str) -> tuple[str, ...]:
        """Keys with a committed value, sorted."""
        return tuple(sorted(self._values.get(namespace, {})))

    def commit(self, writes: Iterable[Write]) -> int:
        """Apply a step's writes, each (namespace, key, uid) once; returns how many were applied.

        Writes are applied in sorted order, so float sums do not depend on arrival.
        """
        unique = {(w.namespace, w.key, w.uid): w for w in writes}
        for _, write in sorted(unique.items()):
            self._apply(write)
        return len(unique)

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
        return {
            space: {key: [value, n] for key, (value, n) in sorted(room.items())}
            for space, room in sorted(self._values.items())
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> HistoryStore:
        """The store `to_json` wrote."""
        store = cls()
        for space, room in data.items():
            entries = cast(Mapping[str, tuple[float, int]], room)
            store._values[space] = {k: (float(v), int(n)) for k, (v, n) in entries.items()}
        return store
