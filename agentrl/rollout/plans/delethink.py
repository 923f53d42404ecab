"""Delethink (The Markovian Thinker, 2510.06557): long thoughts in chunks, each in a fresh short context.

A chunk is a row: the query, the first `keep_head` and the last `carry - keep_head` tokens of the
response so far as its PROMPT (mask 0), then up to `chunk - carry` new tokens, the only ones it
trains; the first chunk has `chunk` new ones. The environment reads the joined text once, so an
answer may straddle a boundary. One trajectory has one reward however many rows it has; with the
aggregation `seq-mean-token-mean` a row weighs its new tokens over those of the whole trace.

Tools: a boundary may lie anywhere in a turn, a half-written call included. An observation belongs to
the response and takes room in its chunk like sampled tokens do, as it is the context that is
bounded; one that overfills its chunk is carried over as far as the carry reaches.
"""

from __future__ import annotations

from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits
from agentrl.rollout.plans.siblings import side_by_side
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.types import Task


class Delethink:
    """Thoughts of at most `chunk + (chunks - 1) (chunk - carry)` tokens in a context of `chunk`."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        chunk: int = 8192,
        carry: int = 4096,
        keep_head: int = 100,
        chunks: int = 5,
        limits: Limits | None = None,
    ) -> None:
        """
        chunk: tokens of a row after the query. carry: those taken over from the row before.
        keep_head: how many of them are the response's first. chunks: rows at most.
        """
        if not 0 <= keep_head < carry < chunk:
            raise UserError(
                f"delethink needs 0 <= keep_head < carry < chunk, not keep_head={keep_head} "
                f"carry={carry} chunk={chunk}"
            )
        if chunks < 1:
            raise UserError(f"delethink.chunks is at least 1, not {chunks}")
        if limits is not None and limits.turn_tokens <= chunk:
            raise _too_short("env.turn_tokens", chunk, chunk + 1)
        if limits is not None and limits.max_tokens <= chunk:
            raise _too_short("env.max_tokens", chunk, 2 * chunk)
        self._group_size, self._chunk, self._chunks = group_size, chunk, chunks
        self._head, self._tail = keep_head, carry - keep_head

    @property
    def budget(self) -> int:
        """New tokens a trace may have in all, C + (I - 1) (C - m)."""
        carry = self._head + self._tail
        return self._chunk + (self._chunks - 1) * (self._chunk - carry)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` traces in sibling order."""

        async def play(sibling: int) -> Trajectory:
            async with services.episodes.live(task, sibling, ctx) as episode:
                return await self._thought(episode)

        members = await side_by_side(range(self._group_size), play)
        return Group(task, members, ctx.step)

    async def _thought(self, episode: Episode) -> Trajectory:
        """Chunk after chunk; a trace that outlives the last one ends with MAX_TOKENS."""
        query = episode.row.token_ids.tolist()
        response: list[int] = []
        own, chunk = len(query), 1
        while episode.stop is None:
            room = len(query) + self._chunk - len(episode.row)
            if room > 0:
                await episode.write(max_tokens=room)
                self._refuse_if_cut(episode, chunk)
                if episode.complete:
                    await episode.act()
                continue
            if chunk == self._chunks:
                break
            response += episode.row.token_ids[own:].tolist()
            episode.renew([*query, *response[: self._head], *response[-self._tail :]])
            own, chunk = len(episode.row), chunk + 1
        return episode.finish(StopReason.MAX_TOKENS)

    def _refuse_if_cut(self, episode: Episode, chunk: int) -> None:
        """Limits that no chunk fits into would quietly train something else."""
        if chunk == self._chunks or episode.complete:
            return
        if episode.stop is StopReason.TURN_TOKENS:
            raise _too_short("env.turn_tokens", self._chunk, self._chunk + 1)
        full = episode.stop in (StopReason.MAX_TOKENS, StopReason.CONTEXT)
        if full and len(episode.row) <= self._chunk:
            raise _too_short("env.max_tokens", self._chunk, 2 * self._chunk)


def _too_short(limit: str, chunk: int, enough: int) -> UserError:
    return UserError(
        f"delethink writes chunks of {chunk} tokens behind the query, which {limit} does not allow; "
        f"set {limit}={enough} or more, or rollout.plan.chunk lower"
    )


__all__ = ["Delethink"]
