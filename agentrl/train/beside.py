"""What feeds that play beside the update share: tickets that were drawn, groups in flight."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from agentrl.train.inflight import Finished, InFlight
from agentrl.train.tickets import Ticket, Tickets


class Beside:
    """The part of `Feed` that keeps account of every drawn task until it is trained on."""

    def __init__(self, left: Sequence[Ticket], inflight: InFlight) -> None:
        """`left` are the tickets of the boundary that the run goes on from."""
        self._inflight = inflight
        self._tickets = Tickets(left)
        self._used: list[Ticket] = []
        """Those of the batch being put together or learnt, dropped ones included."""

    async def __aenter__(self) -> Self:
        await self._inflight.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._inflight.__aexit__(kind, error, trace)

    def learnt(self) -> None:
        """See `Feed.learnt`."""
        self._tickets.close(self._used)
        self._inflight.spend(self._used)
        self._used = []

    def left(self) -> tuple[Ticket, ...]:
        """See `Feed.left`."""
        return self._tickets.left

    def played(self) -> tuple[Finished, ...]:
        """See `Feed.played`."""
        return self._inflight.unspent


__all__ = ["Beside"]
