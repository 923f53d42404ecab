"""Live episodes as plans see them: played to the end at once, or turn by turn.

`agentrl.rollout` implements this; a plan is handed an `EpisodeRunner` in its Services.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import Transcript
from agentrl.types import Message, Task

if TYPE_CHECKING:
    from agentrl.engine.base import Generation
    from agentrl.points import Ctx


class Episode(Protocol):
    """A live episode, turn by turn: what plans that branch, force or hint are made of.

    A turn is written (by one or more `write`s, with `place` and `force` between them), then acted
    upon. A failure of the world ends the episode instead of being raised: `stop` is ERROR then.
    """

    @property
    def uid(self) -> str: ...

    @property
    def sibling(self) -> int: ...

    @property
    def row(self) -> Transcript:
        """The context so far, the unfinished turn included."""
        ...

    @property
    def turn_start(self) -> int:
        """Tokens of `row` before the unfinished turn, or before the next one."""
        ...

    @property
    def n_turns(self) -> int:
        """Turns begun."""
        ...

    @property
    def n_calls(self) -> int:
        """Tool calls answered so far, those of the branch it came from included."""
        ...

    @property
    def text(self) -> str:
        """The unfinished turn as text; empty between turns."""
        ...

    @property
    def complete(self) -> bool:
        """The unfinished turn ended as turns do: it is time to `act`."""
        ...

    @property
    def stop(self) -> StopReason | None:
        """None while the episode goes on."""
        ...

    async def write(
        self,
        *,
        max_tokens: int | None = None,
        entropies: bool = False,
        stop: Sequence[str] = (),
        by: str | None = None,
    ) -> Generation | None:
        """Go on writing the turn: until it is complete, or `max_tokens`, or one of `stop`.

        `by` names a partner of `Services.partners` that writes in the policy's stead: its tokens
        are read like an observation (mask 0, no ratio) and belong to the turn all the same. None
        when the episode has ended, by a limit or a fault. Raises RuntimeError when the turn is
        complete already, UserError when there is no such partner.
        """
        ...

    async def act(self) -> bool:
        """The environment answers the turn, complete or not; True while the episode goes on."""
        ...

    def place(self, text: str) -> None:
        """Text that the policy did not write, inside its turn: hints, closers (SCAFFOLD)."""
        ...

    def force(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Tokens placed with a declared probability; they are trained like sampled ones.

        The id that ends a turn completes it.
        """
        ...

    def renew(self, token_ids: Sequence[int]) -> None:
        """Go on with the turn in a fresh row that holds only `token_ids` (PROMPT).

        The row so far is kept, and trained, as one of the trajectory's rows.
        """
        ...

    async def fork(self, siblings: Sequence[int], *, at: int | None = None) -> Sequence[Episode]:
        """One branch per sibling number, sharing the first `at` tokens (default: `turn_start`).

        Branches own copies of everything the environment and the tools hold. Inside the unfinished
        turn those are copied; before it (and for what cannot be copied) a new environment is
        brought there by the recorded actions, and the branch fails when it answers otherwise.
        """
        ...

    def finish(self, stop: StopReason = StopReason.ABORTED) -> Trajectory:
        """The trajectory; one that still goes on ends with `stop`."""
        ...

    async def close(self) -> None:
        """Release environment and sandbox. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """How an episode starts when not as its environment would have it."""

    rewrite: Callable[[tuple[Message, ...]], tuple[Message, ...]]
    """The environment's first messages -> those the policy reads (hints, instructions)."""
    train: Literal["rewritten", "plain"] = "rewritten"
    """The prompt it is trained under; `plain` is the environment's own."""
    ratio_mode: Literal["behaviour", "relabel"] = "behaviour"
    """With `plain`: see `Transcript.ratio_mode`."""


class EpisodeRunner(Protocol):
    """Runs episodes through the multi-turn loop."""

    async def run(
        self, task: Task, sibling: int, ctx: Ctx, opening: Opening | None = None
    ) -> Trajectory:
        """One finished trajectory; a failure of the world is in its `error`, never raised."""
        ...

    def live(
        self, task: Task, sibling: int, ctx: Ctx, opening: Opening | None = None
    ) -> AbstractAsyncContextManager[Episode]:
        """An episode for a plan to play, its prompt in place.

        Leaving the block closes it and all its branches. One attempt only: a plan that wants a
        failed trajectory replaced runs another.
        """
        ...


__all__ = ["Episode", "EpisodeRunner", "Opening"]
