"""So many requests a second, evenly spaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic


class Rate:
    """Gives every request its moment: each `1 / per_second` after the one before, or now."""

    def __init__(self, per_second: float, *, now: Callable[[], float] = monotonic) -> None:
        """`now`: seconds of any clock."""
        self._gap_s = 1.0 / per_second
        self._now = now
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """Seconds to sleep before the request that asks; its moment is taken by asking."""
        with self._lock:
            now = self._now()
            moment = max(now, self._next_s)
            self._next_s = moment + self._gap_s
            return moment - now
