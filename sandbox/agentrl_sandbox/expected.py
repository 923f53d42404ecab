"""What is still to be heard of the sessions of one zygote."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentrl_sandbox.child import Exit
from agentrl_sandbox.inside.news import Born

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What will be heard of one ordered session; None where the zygote was lost before."""

    session: int
    born: asyncio.Future[tuple[Born, int] | None]
    """A copy's news and its pidfd."""
    fit: asyncio.Future[bool | None]
    exited: asyncio.Future[Exit | None]


class Expected:
    """Numbers sessions, and settles what is waited for when the zygote reports it or is lost."""

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[Exit | None]] = {}
        self._copies: dict[int, Delivery] = {}
        self.numbered = 0
        """Sessions ordered so far, copies among them."""

    def sessions(self, count: int) -> list[Delivery]:
        """Numbers for new sessions, whose ends will be heard of."""
        numbers = range(self.numbered, self.numbered + count)
        self.numbered += count
        new = asyncio.get_running_loop().create_future
        made = [Delivery(number, new(), new(), new()) for number in numbers]
        self._exits |= {delivery.session: delivery.exited for delivery in made}
        return made

    def copies(self, count: int) -> list[Delivery]:
        """The same for copies, whose births will be heard of too."""
        made = self.sessions(count)
        self._copies |= {delivery.session: delivery for delivery in made}
        return made

    def ended(self, session: int, exit_: Exit) -> None:
        """A session was reaped."""
        settle(self._exits.pop(session, None), exit_)

    def born(self, message: Born, pidfd: int) -> None:
        """A copy has shown itself; its pidfd is closed when nobody waits for it any more."""
        delivery = self._copies.get(message["session"])
        if delivery is None or delivery.born.done():
            os.close(pidfd)
        else:
            delivery.born.set_result((message, pidfd))

    def fit(self, session: int) -> None:
        """The fence of a copy stands."""
        delivery = self._copies.pop(session, None)
        if delivery is not None:
            settle(delivery.fit, True)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """Expect nothing of these any more."""
        for delivery in deliveries:
            self._copies.pop(delivery.session, None)
            self._exits.pop(delivery.session, None)

    def lose(self) -> None:
        """The zygote is gone: nothing will be heard of anyone."""
        for future in self._exits.values():
            settle(future, None)
        for delivery in self._copies.values():
            settle(delivery.born, None)
            settle(delivery.fit, None)
        self._exits.clear()
        self._copies.clear()


def settle(future: asyncio.Future[_T] | None, result: _T) -> None:
    """Give a future its result, if it is waited for and has none."""
    if future is not None and not future.done():
        future.set_result(result)
