"""A session and its copies: what the zygote remembers of them and of an order to make some."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

_WINDOW_S = 10.0
_QUESTIONS = 50_000
"""More questions than this within a window are an attack on the zygote's time."""


@dataclass(slots=True)
class Birth:
    """A copy that was ordered: its number and the far ends of its channels."""

    session: int
    descriptors: tuple[int, ...]

    def close(self) -> None:
        """Give the descriptors back; the copy has its own."""
        for fd in self.descriptors:
            os.close(fd)


@dataclass(slots=True)
class Order:
    """Copies that one member may make now."""

    parent: int
    """Its pid."""
    clones: int
    """Forks still allowed."""
    births: list[Birth]
    """Copies that have not yet shown themselves."""

    @property
    def unseen(self) -> bool:
        """Whether a fork was allowed whose copy has not shown itself."""
        return self.clones < len(self.births)


@dataclass(slots=True)
class Family:
    """Processes that share one filter, one user and one folder."""

    number: int
    """Session number of the first member."""
    slot: int
    folder: str
    """Holds the work folders of all members; empty where each mounts its own."""
    asking: int | None = None
    """Where the questions of its filter arrive; None: no copies can be made."""
    members: set[int] = field(default_factory=set[int])
    """Pids that are or were to be leased."""
    newborn: set[int] = field(default_factory=set[int])
    """Members that have not yet asked for their parent-death signal."""
    order: Order | None = None
    _since: float = 0.0
    _questions: int = 0

    def called_off(self, barren: bool) -> None:
        """Forget an order; copies that have not shown themselves die, and with them the parent.

        They are still in its process group, and nothing else tells them from it. `barren`: it is
        certain that there are none and will be none.
        """
        order, self.order = self.order, None
        if order is None:
            return
        if order.unseen and not barren:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(order.parent, signal.SIGKILL)
        for birth in order.births:
            birth.close()
        for pid in self.newborn:
            kill(pid)

    def overrun(self) -> bool:
        """Count a question; whether there have been too many lately."""
        now = time.monotonic()
        if now - self._since > _WINDOW_S:
            self._since, self._questions = now, 0
        self._questions += 1
        return self._questions > _QUESTIONS

    def end(self) -> None:
        """Kill every member."""
        for pid in self.members:
            kill(pid)


def kill(pid: int) -> None:
    """End a process; the dead are left in peace."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
