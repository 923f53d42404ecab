"""A live episode: one environment, one growing record, played turn by turn.

env.reset -> renderer -> engine.generate -> protocol.parse -> env.step -> protocol.present ->
renderer -> ... Ids are only ever appended: what the model sampled is never decoded, edited and
re-encoded. A failure of the world ends the episode as data; our own faults crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import TypeAlias

from agentrl.context import Context
from agentrl.engine.base import Generation, Sampling
from agentrl.env import Action, Env, StepResult
from agentrl.episode import Opening
from agentrl.errors import EngineError, WorldFault
from agentrl.rollout.branching import copied, fingerprint, replayed
from agentrl.rollout.contexts import Contexts, Ending
from agentrl.rollout.faults import EnvFault, of_env, told, within
from agentrl.rollout.limits import Lease, clip_result
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.recorder import Recorder
from agentrl.rollout.slots import Unranked
from agentrl.rollout.stages import Stage, StageClock
from agentrl.rollout.turn import Mark, Played, Turn, part_sampling, room_left
from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import Int32Array, Origin, Segment, Transcript, floats_array, ids_array
from agentrl.types import Task

Finished: TypeAlias = Callable[[Trajectory], None]

_ranks = count()
"""Episodes in the order in which they were made."""


def forget(trajectory: Trajectory) -> None:
    """For episodes whose plans' results are all that matters."""


class LiveEpisode:
    """Implements `agentrl.episode.Episode`."""

    __slots__ = (
        "_branches", "_clock", "_contexts", "_ctx", "_env", "_error", "_lease", "_marks", "_names",
        "_parts", "_played", "_rank", "_recorder", "_seeds", "_stop", "_turn", "_unreadable", "told",
    )  # fmt: skip

    def __init__(
        self, parts: Parts, names: Names, recorder: Recorder, env: Env, lease: Lease
    ) -> None:
        self._parts, self._names, self._recorder = parts, names, recorder
        self._env, self._lease = env, lease
        self._seeds = names.seeds(recorder.sibling)
        recorder.seed = self._seeds.sampling
        self._ctx = Context(lease_sandbox=lease.get, tool_limiter=parts.tool_slots)
        self._branches: list[LiveEpisode] = []
        self._played: list[Played] = []
        self._marks: list[Mark] = []
        self._turn = Turn()
        self._contexts = Contexts(parts, env, recorder)
        self._unreadable = 0
        self._stop: StopReason | None = None
        self._error: str | None = None
        self._clock = StageClock(parts.limits)
        self._rank = next(_ranks)
        self.told: Finished = forget
        """Called with each trajectory that it, or a branch of it, is finished to."""

    @classmethod
    def of(
        cls, task: Task, parts: Parts, names: Names, sibling: int, *, demo: bool = False
    ) -> LiveEpisode:
        """One that has not started yet."""
        recorder = Recorder(task, names.uid(sibling), sibling, demo=demo)
        return cls(parts, names, recorder, parts.make_env(), Lease(parts.pool))

    @property
    def uid(self) -> str:
        """See `Episode.uid`."""
        return self._recorder.uid

    @property
    def sibling(self) -> int:
        """See `Episode.sibling`."""
        return self._recorder.sibling

    @property
    def row(self) -> Transcript:
        """See `Episode.row`."""
        return self._recorder.row

    @property
    def turn_start(self) -> int:
        """See `Episode.turn_start`."""
        return self._marks[-1].n_tokens if self._marks else len(self.row)

    @property
    def n_turns(self) -> int:
        """See `Episode.n_turns`."""
        return self._recorder.n_turns

    @property
    def n_calls(self) -> int:
        """See `Episode.n_calls`."""
        return self._recorder.n_calls

    @property
    def text(self) -> str:
        """See `Episode.text`; without the id that ended the turn."""
        return self._text_of(self._turn_ids())

    @property
    def complete(self) -> bool:
        """See `Episode.complete`."""
        return self._turn.complete

    @property
    def stop(self) -> StopReason | None:
        """See `Episode.stop`."""
        return self._stop

    @property
    def doing(self) -> str:
        """What it is busy with and for how long, for people."""
        return f"{self.uid} in {self._clock.stage} for {self._clock.elapsed_s:.0f} s"

    @property
    def busy_since(self) -> float:
        """`time.monotonic()` at which its present stage began."""
        return self._clock.since

    async def start(self, opening: Opening | None = None) -> None:
        """Open the environment, reset it and place the prompt."""
        self._clock.start()
        self._ctx = replace(self._ctx, deadline=self._clock.deadline, seed=self._seeds.env)
        async with self._border("setup"):
            await of_env(self._env.open(self._ctx))
            first = await of_env(self._env.reset(self._recorder.task, seed=self._seeds.env))
            self._contexts.begin(first, opening)
            self._mark()

    async def write(
        self,
        *,
        max_tokens: int | None = None,
        entropies: bool = False,
        stop: Sequence[str] = (),
        by: str | None = None,
    ) -> Generation | None:
        """See `Episode.write`; without `by` it is whom the environment asked for."""
        turn = self._turn
        if turn.complete:
            raise RuntimeError(f"the turn of {self.uid} is complete: act on it")
        if self._stop is not None:
            return None
        if not turn.parts and self.n_turns == self._parts.limits.max_turns:
            return self._end(StopReason.MAX_TURNS)
        by = turn.by if by is None else by
        limits, context = self._parts.limits, self._parts.writer(by).max_context
        room, full = room_left(len(self.row), self.turn_start, limits, context)
        if room <= 0:
            return self._cut(full)
        async with self._border("queue") as scope:
            self._recorder.n_turns += not turn.parts
            seed = self._seeds.turn(self.n_turns - 1, turn.parts)
            turn.parts += 1
            wanted = room if max_tokens is None else min(room, max_tokens)
            sampling = part_sampling(self._parts, seed, wanted, entropies, stop)
            generation = await self._generate(sampling, by, scope)
            turn.wrote(generation, stop)
            if generation.stop == "length" and len(generation.token_ids) == room:
                self._cut(full)
            return generation
        return None

    async def _generate(
        self, sampling: Sampling, by: str | None, scope: asyncio.Timeout
    ) -> Generation:
        """`scope` is the timer of the border around; the wait for a place has only the episode's."""
        parts, recorder = self._parts, self._recorder
        writer = parts.writer(by)
        slots = parts.engine_slots if by is None else Unranked()
        async with slots.slot(self._rank) as waited_s:
            recorder.queue_s += waited_s
            self._clock.enter("generation")
            scope.reschedule(self._clock.until())
            generation = await writer.generate(recorder.row.token_ids, sampling)
        took_s = self._clock.elapsed_s
        recorder.generated(generation, sampling.temperature or 1.0, took_s, by)
        if generation.stop == "abort":
            raise EngineError("the engine aborted the request")
        return generation

    def _turn_ids(self) -> Int32Array:
        return self._turn.ids(self.row.token_ids[self.turn_start :])

    async def act(self) -> bool:
        """See `Episode.act`. Raises RuntimeError when nothing was written."""
        if self._stop is not None:
            return False
        recorder, limits = self._recorder, self._parts.limits
        if (
            not self._turn.parts and len(self.row) > self.turn_start
        ):  # placed as a whole: a turn too
            recorder.n_turns += 1
        action = self._parsed()
        recorder.acted(action)
        self._unreadable = self._unreadable + 1 if action.parse_error else 0
        if action.parse_error:
            recorder.unreadable(action)
        if self._unreadable > limits.max_parse_errors:
            self._end(StopReason.PARSE_ERRORS)
        elif recorder.n_calls + len(action.tool_calls) > limits.max_calls:
            self._end(StopReason.MAX_CALLS)
        else:
            async with self._border("step"):
                result = await of_env(self._env.step(action))
                if not isinstance(result, StepResult):  # pyright: ignore[reportUnnecessaryIsInstance] strangers
                    kind = type(result).__name__
                    raise EnvFault(f"the environment answered with a {kind}, not a StepResult")
                self._answered(action, result)
        return self._stop is None

    def _parsed(self) -> Action:
        """The turn as an action; its ids are not held while the environment answers."""
        ids = self._turn_ids()
        if not len(ids):
            raise RuntimeError(f"the turn of {self.uid} is empty: write it first")
        text = self._text_of(ids)
        return self._parts.protocol.parse(ids, text, turn=max(0, self.n_turns - 1))

    def _text_of(self, ids: Int32Array) -> str:
        return self._parts.renderer.tokenizer.decode(ids[:-1] if self._turn.ended else ids)

    def _answered(self, action: Action, result: StepResult) -> None:
        """Write one step down."""
        parts = self._parts
        self._played.append(Played(action, fingerprint(result.observation)))
        info, whole = result.info, result.observation
        result = clip_result(result, parts.limits.observation_tokens, parts.renderer.tokenizer)
        self._recorder.stepped(action, result)
        if result.terminated or result.truncated:
            ended = StopReason.TERMINATED if result.terminated else StopReason.ENV_TRUNCATED
            self._end(ended)
            return
        shown = result.observation if self._contexts.knows(info.context) else whole
        if self._contexts.answer(shown, Ending(action.text, self._turn.ended), info.context):
            self._marks = []
        self._mark(info.by)

    def _mark(self, by: str | None = None) -> None:
        """A turn begins here; `by` is whom the environment lets write it."""
        n, moment = len(self.row), self._recorder.now()
        self._marks.append(Mark(n, moment, len(self._played), self._unreadable, by))
        self._turn = Turn(by)

    def place(self, text: str) -> None:
        """See `Episode.place`."""
        self._append(Origin.SCAFFOLD, self._parts.renderer.demo(text))

    def force(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """See `Episode.force`. Raises ValueError when the lengths differ."""
        self._append(Origin.FORCED, ids_array(token_ids), logprobs)
        if self._stop is None and len(token_ids):
            ends = int(token_ids[-1]) in self._parts.renderer.stop_ids
            self._turn.ended = self._turn.complete = ends

    def _append(
        self, origin: Origin, token_ids: Int32Array, logprobs: Sequence[float] | None = None
    ) -> None:
        if self._stop is not None:
            return
        if self._turn.complete:
            raise RuntimeError(f"the turn of {self.uid} is complete: nothing can follow in it")
        recorded = None if logprobs is None else floats_array(logprobs)
        segment = Segment(
            origin,
            token_ids,
            logprobs=recorded,
            temperature=self._parts.sampling.temperature or 1.0,
        )
        self._recorder.row = self.row.append(segment)

    def renew(self, token_ids: Sequence[int]) -> None:
        """See `Episode.renew`. The turn has its whole budget again; branches start behind it."""
        carried = self._turn_ids()
        self._recorder.renewed(ids_array(token_ids))
        self._marks = [replace(self._marks[-1], n_tokens=len(self.row))]
        self._turn.carried = carried

    async def fork(self, siblings: Sequence[int], *, at: int | None = None) -> list[LiveEpisode]:
        """See `Episode.fork`. Raises ValueError for a place that the present row does not have."""
        at = self.turn_start if at is None else at
        marks = [mark for mark in self._marks if mark.n_tokens <= at]
        if not marks or at > len(self.row):
            raise ValueError(f"{self.uid} cannot branch at token {at} of {len(self.row)}")
        live = self._stop is None and marks[-1] is self._marks[-1]
        bodies = await copied(self._env, self._lease, len(siblings)) if live else None
        made: list[LiveEpisode] = []
        for i, sibling in enumerate(siblings):
            env, lease = bodies[i] if bodies else (self._parts.make_env(), Lease(self._parts.pool))
            made.append(self._branch(sibling, at, marks, env, lease))
        self._branches += made
        async with asyncio.TaskGroup() as opening:
            for branch in made:
                opening.create_task(branch._resume(fresh=bodies is None))
        return made

    def _branch(
        self, sibling: int, at: int, marks: Sequence[Mark], env: Env, lease: Lease
    ) -> LiveEpisode:
        mark = marks[-1]
        recorder = self._recorder.branch(self._names.uid(sibling), sibling, at, since=mark.moment)
        branch = LiveEpisode(self._parts, self._names, recorder, env, lease)
        branch._clock.deadline = self._clock.deadline
        branch._ctx = replace(branch._ctx, deadline=self._ctx.deadline, seed=self._seeds.env)
        branch._rank, branch.told = self._rank, self.told
        branch._played = self._played[: mark.n_played]
        branch._marks = list(marks)
        branch._unreadable = mark.unreadable
        branch._contexts = self._contexts.branch(env, recorder)
        branch._turn = turn = Turn(mark.by)
        if at > mark.n_tokens or len(self._turn.carried):
            turn.parts, turn.carried = 1, self._turn.carried
            recorder.n_turns += 1
        if at > mark.n_tokens:
            last = int(recorder.row.token_ids[-1])
            turn.ended = turn.complete = last in self._parts.renderer.stop_ids
        return branch

    async def _resume(self, *, fresh: bool) -> None:
        """Bind the environment; a fresh one is first brought to where the branch begins."""
        async with self._border("setup"):
            await of_env(self._env.open(self._ctx))
            if fresh:
                task, seed = self._recorder.task, self._seeds.env
                steps = [(played.action, played.answer) for played in self._played]
                self._recorder.replayed = await replayed(self._env, task, seed, steps)

    def finish(self, stop: StopReason = StopReason.ABORTED) -> Trajectory:
        """See `Episode.finish`."""
        if self._stop is None:
            self._cut(stop)
        assert self._stop is not None
        finished = self._recorder.finish(self._stop, self._error)
        self.told(finished)
        return finished

    async def close(self) -> None:
        """See `Episode.close`; its branches are closed with it."""
        close_s = self._parts.limits.close_s
        self._clock.enter("closing")
        for branch in self._branches:
            await branch.close()
        try:
            await within(close_s, of_env(self._env.close()))
        finally:
            if self._lease.held:
                await within(close_s, self._lease.close())

    def _cut(self, stop: StopReason) -> None:
        """End in the middle of a turn; what was written of it stays in the conversation."""
        if len(self._turn_ids()):
            self._recorder.acted(Action(self.text))
        self._end(stop)

    def _end(self, stop: StopReason, error: str | None = None) -> None:
        self._stop, self._error = stop, error

    @asynccontextmanager
    async def _border(self, stage: Stage) -> AsyncGenerator[asyncio.Timeout]:
        """The episode border: deadlines and failures of the world end the episode as data.

        One timer for the stage and for the episode, whichever comes first.
        """
        clock = self._clock
        clock.enter(stage)
        scope = asyncio.timeout_at(clock.until())
        try:
            async with scope:
                yield scope
        except WorldFault as error:
            self._end(StopReason.ERROR, told(error))
        except TimeoutError as error:
            if not scope.expired():  # an environment's own is an EnvFault already
                self._end(StopReason.ERROR, told(EngineError(f"the engine timed out: {error}")))
            elif clock.over and len(self.row):
                self._end(StopReason.DEADLINE)
            else:  # before the first prompt there is nothing to train on: the world was too slow
                self._end(StopReason.ERROR, told(clock.fault()))
        finally:
            clock.enter("plan")


__all__ = ["Finished", "LiveEpisode", "forget"]
