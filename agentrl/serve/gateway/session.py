"""A recorded session: a foreign program's requests as rows of exact ids, logprobs and masks.

The program is the loop here; the engine writes each of its turns and what was sampled is written
down. Text that the model wrote is never encoded again: what follows a known turn is appended to the
ids that were sampled.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

from agentrl.engine.base import Generation, Sampling
from agentrl.env import Action
from agentrl.errors import EngineError, WorldFault
from agentrl.rollout.faults import told
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.recorder import sampled_segments
from agentrl.seeds import derive
from agentrl.serve.gateway.drafts import Draft, Drafts
from agentrl.serve.gateway.rows import Mark, Row, place_of
from agentrl.serve.gateway.turns import Counts, Turn, Verdict, finish_of, spoken
from agentrl.serve.gateway.wire import ApiError, ChatRequest
from agentrl.trajectory import CallRecord, StopReason, Timings, Trajectory
from agentrl.transcript import Transcript
from agentrl.types import Message, Task, ToolCall

SamplingBy = Literal["run", "request"]
"""Whose temperature is used: the run's whatever a request says, or the request's."""


@dataclass(frozen=True, slots=True)
class _Issued:
    """A call that the client was told of."""

    call: ToolCall
    turn: int
    at: float
    """`time.monotonic()` at which it was told."""


class Session:
    """One program's run at one task. Requests may overlap; each row grows by one at a time."""

    def __init__(
        self, parts: Parts, names: Names, sibling: int = 0, *, sampling: SamplingBy = "run"
    ) -> None:
        """parts: engine, renderer, protocol and limits; the environment is not asked for here."""
        self._parts, self._sampling_by = parts, sampling
        self._drafts = Drafts(parts)
        seeds = names.seeds(sibling)
        self._seed, self._turn_seed = seeds.sampling, seeds.turn
        self.task: Task = names.task
        self.sibling, self.uid = sibling, names.uid(sibling)
        self.rows: list[Row] = []
        self.counts = Counts()
        self.n_turns = 0
        """Turns written."""
        self._begun = 0
        """Turns asked for: each has a seed of its own, those that failed included."""
        self.closed = False
        self.busy = 0
        """Requests being answered."""
        self.touched = monotonic()
        self.fault: str | None = None
        """What the world did to the last request; None when it was answered."""
        self.limit: StopReason | None = None
        """The limit that the last request met or that cut its turn; None when it met none."""
        self.last: Action | None = None
        """The last turn."""
        self._messages: list[Message] = []
        self._ledger: list[CallRecord] = []
        self._unanswered: dict[str, _Issued] = {}
        self._generate_s = self._queue_s = 0.0
        self._started = monotonic()

    async def complete(self, request: ChatRequest) -> Turn:
        """Write the next turn. Raises ApiError for what is refused or failed.

        Cancelled, it records nothing.
        """
        self._admit(request)
        came = monotonic()
        draft = self._drafts.draft(request, place_of(self.rows, request))
        asked = self._sampling(request, self._room(len(draft.transcript)))
        self._begun += 1
        self.busy += 1
        if draft.grows is not None:
            draft.grows.busy = True
        try:
            generation = await self._generate(draft.transcript, asked)
        except WorldFault as error:
            self.fault = told(error)
            raise ApiError(str(error), status=503, code="engine_failed") from error
        finally:
            self.busy -= 1
            if draft.grows is not None:
                draft.grows.busy = False
            self.touched = monotonic()
        if self.closed:
            raise _closed()
        return self._written(request, draft, generation, asked, came)

    def finish(self, verdict: Verdict) -> Trajectory:
        """The trajectory; the session takes no more requests."""
        self.closed = True
        calls = tuple(self._ledger)
        return Trajectory(
            uid=self.uid,
            task=self.task,
            sibling=self.sibling,
            rows=tuple(row.transcript for row in self.rows),
            messages=tuple(self._messages),
            stop=verdict.stop,
            rewards={} if verdict.error is not None else dict(verdict.rewards),
            calls=calls,
            n_turns=self.n_turns,
            answer=verdict.answer,
            seed=self._seed,
            error=verdict.error,
            excluded=verdict.excluded,
            n_executed=sum(call.ran for call in calls),
            timings=Timings(
                generate_s=self._generate_s,
                tool_s=sum(call.wall_s for call in calls),
                queue_s=self._queue_s,
                total_s=monotonic() - self._started,
            ),
        )

    def _admit(self, request: ChatRequest) -> None:
        self.touched = monotonic()
        self.fault = None
        if self.closed:
            raise _closed()
        if request.n != 1:
            raise ApiError("a recorded session writes one choice: set n=1", param="n")
        if self._sampling_by == "request":
            if request.temperature == 0:
                raise ApiError(
                    "what is trained on is sampled: temperature > 0", param="temperature"
                )
            if request.top_p not in (None, 1.0):
                raise ApiError("what is trained on is sampled whole: top_p=1", param="top_p")
        most = self._parts.limits.max_turns
        if self.n_turns + self.busy >= most:
            raise self._met(StopReason.MAX_TURNS, f"the session has had its {most} turns")

    def _met(self, limit: StopReason, message: str) -> ApiError:
        self.limit = limit
        full = limit in (StopReason.MAX_TOKENS, StopReason.CONTEXT)
        return ApiError(message, code="context_length_exceeded" if full else limit.value)

    def _room(self, n: int) -> int:
        """Tokens that a row of `n` may still have. Raises ApiError when there are none."""
        most, ending = self._parts.limits.max_tokens, StopReason.MAX_TOKENS
        if self._parts.engine.max_context < most:
            most, ending = self._parts.engine.max_context, StopReason.CONTEXT
        if n >= most:
            raise self._met(ending, f"the conversation has {n} tokens; at most {most} fit")
        return most - n

    def _sampling(self, request: ChatRequest, room: int) -> Sampling:
        """Settings of the next turn; a request's seed is mixed with the session's: siblings differ."""
        parts, seed = self._parts, self._turn_seed(self._begun)
        temperature = parts.sampling.temperature
        if self._sampling_by == "request":
            seed = seed if request.seed is None else derive(seed, request.seed)
            temperature = temperature if request.temperature is None else request.temperature
        limits = [parts.limits.turn_tokens, room, request.max_tokens or room]
        stops = parts.protocol.stops
        return replace(
            parts.sampling,
            max_tokens=min(limits),
            temperature=temperature,
            stop=(*stops, *(s for s in request.stop if s not in stops)),
            stop_ids=parts.renderer.stop_ids,
            seed=seed,
        )

    async def _generate(self, row: Transcript, sampling: Sampling) -> Generation:
        parts = self._parts
        async with parts.engine_slots.slot() as waited_s:
            self._queue_s += waited_s
            began = monotonic()
            try:
                async with asyncio.timeout(parts.limits.generate_s):
                    generation = await parts.engine.generate(row.token_ids, sampling)
            except TimeoutError as error:
                limit_s = parts.limits.generate_s
                raise EngineError(f"no generation within {limit_s:g} s") from error
            finally:
                self._generate_s += monotonic() - began
        if generation.stop == "abort":
            raise EngineError("the engine aborted the request")
        return generation

    def _written(
        self,
        request: ChatRequest,
        draft: Draft,
        generation: Generation,
        asked: Sampling,
        came: float,
    ) -> Turn:
        """Write the turn down; from here on it is what the client knows."""
        turn, self.n_turns = self.n_turns, self.n_turns + 1
        sampled = sampled_segments(generation, asked.temperature or 1.0)
        grown = draft.transcript.append(*sampled)
        ended = generation.stop == "stop_id"
        action = self._read(generation, turn)
        said = spoken(
            action, generation.stop_text if generation.stop_text in request.stop else None
        )
        row = self._row(draft, request)
        row.transcript, row.said = grown, [*draft.said, said]
        row.marks.append(Mark(len(row.said), len(grown), action.text, ended))
        if not self.task.question:
            self.task = replace(self.task, question=request.messages[-1].content)
        self._messages += [*draft.added, Message("assistant", action.text, action.tool_calls)]
        self._answer(request, came)
        self._unanswered |= {
            call.id: _Issued(call, turn, monotonic()) for call in action.tool_calls
        }
        if action.parse_error:
            problem = action.parse_error
            self._ledger.append(
                CallRecord(turn, "", action.text, problem, "parse", False, 0.0, 0.0)
            )
        self.last, self.limit = action, self._cut(generation, len(grown))
        prompt_ids = draft.transcript.token_ids
        finish = finish_of(action, generation)
        return Turn(said, finish, generation, prompt_ids, self.rows.index(row))

    def _answer(self, request: ChatRequest, came: float) -> None:
        """Ledger lines for the tool messages that answer our calls, once each, in whatever row."""
        for message in request.messages:
            issued = self._unanswered.pop(message.call_id or "", None)
            if issued is None or message.role != "tool":
                continue
            read = self._drafts.clipped(message)
            self._ledger.append(
                CallRecord(
                    turn=issued.turn,
                    name=issued.call.name,
                    arguments=json.dumps(issued.call.arguments, default=str),
                    content=read.content,
                    error=None,
                    truncated=read.content != message.content,
                    wall_s=came - issued.at,
                    queue_s=0.0,
                )
            )

    def _row(self, draft: Draft, request: ChatRequest) -> Row:
        """The row that the turn goes into, counted."""
        if draft.grows is not None:
            self.counts.continued += 1
            return draft.grows
        self.counts.rendered += draft.rendered
        self.counts.branched += not draft.rendered
        row = Row(draft.transcript, request.tools)
        self.rows.append(row)
        return row

    def _read(self, generation: Generation, turn: int) -> Action:
        """The turn as an action; one that was cut calls nothing."""
        ids, renderer = generation.token_ids, self._parts.renderer
        text = renderer.tokenizer.decode(ids[:-1] if generation.stop == "stop_id" else ids)
        if generation.stop == "length":
            return Action(text)
        return self._parts.protocol.parse(ids, text, turn=turn)

    def _cut(self, generation: Generation, n: int) -> StopReason | None:
        """The limit that cut the turn, as our own loop would name it."""
        if generation.stop != "length":
            return None
        if n >= self._parts.limits.max_tokens:
            return StopReason.MAX_TOKENS
        return StopReason.CONTEXT if n >= self._parts.engine.max_context else StopReason.TURN_TOKENS


def _closed() -> ApiError:
    return ApiError("this session is closed", status=409, code="session_closed")


__all__ = ["SamplingBy", "Session"]
