"""What an episode writes down as it goes: one growing row, the conversation, the ledger, times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from agentrl.chat.base import Span
from agentrl.engine.base import Generation
from agentrl.env import Action, StepResult
from agentrl.trajectory import CallRecord, StopReason, Timings, Trajectory
from agentrl.transcript import Int32Array, Origin, Segment, Transcript
from agentrl.types import Message, Task


def sampled_segments(generation: Generation, temperature: float) -> tuple[Segment, ...]:
    """One MODEL segment per run of equal policy version."""
    segments: list[Segment] = []
    start = 0
    for count, version in generation.versions:
        part = slice(start, start + count)
        start += count
        segments.append(
            Segment(
                Origin.MODEL,
                generation.token_ids[part],
                logprobs=generation.logprobs[part],
                version=version,
                temperature=temperature,
                entropies=None if generation.entropies is None else generation.entropies[part],
            )
        )
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a record stood: what it has grown since can be cut off again."""

    n_messages: int
    n_calls: int
    n_turns: int
    env_reward: float
    answer: str | None
    excluded: str | None


@dataclass(slots=True)
class Recorder:
    """The mutable side of one episode; `finish` freezes it."""

    task: Task
    uid: str
    sibling: int
    seed: int = 0
    """Of its sampling; set by its episode."""
    demo: bool = False
    """Record what the engine writes as DEMO: expert text for supervised terms."""
    row: Transcript = field(default_factory=Transcript)
    rows: list[Transcript] = field(default_factory=list[Transcript])
    """Rows that were left for another."""
    messages: list[Message] = field(default_factory=list[Message])
    calls: list[CallRecord] = field(default_factory=list[CallRecord])
    env_reward: float = 0.0
    answer: str | None = None
    excluded: str | None = None
    n_turns: int = 0
    inherited: int = 0
    """Ledger lines taken over from the episode it was branched from."""
    replayed: int = 0
    """Calls that were run again to bring a new environment to the branching point."""
    parent: str | None = None
    fork_tokens: int | None = None
    generate_s: float = 0.0
    queue_s: float = 0.0
    """Seconds spent waiting for a place in the engine."""
    started: float = field(default_factory=monotonic)

    def prompt(
        self,
        messages: Sequence[Message],
        token_ids: Int32Array,
        train_context: Int32Array | None = None,
        ratio_mode: str = "behaviour",
    ) -> None:
        """The first messages and their ids, and what the row is trained under instead of them."""
        self.messages.extend(messages)
        row = replace(self.row, train_context=train_context, ratio_mode=ratio_mode)
        self.row = row.append(Segment(Origin.PROMPT, token_ids))

    def renewed(self, token_ids: Int32Array) -> None:
        """Leave the present row for a fresh one of the same name that holds only a prompt."""
        self.rows.append(self.row)
        fresh = Transcript(context=self.row.context)
        self.row = fresh.append(Segment(Origin.PROMPT, token_ids))

    def knows(self, context: str) -> bool:
        """A row of that name was begun."""
        return any(row.context == context for row in (*self.rows, self.row))

    def turn_to(self, context: str) -> None:
        """Leave the present row for the last one of that name, or for a new and empty one."""
        known = [i for i, row in enumerate(self.rows) if row.context == context]
        entered = self.rows.pop(known[-1]) if known else Transcript(context=context)
        self.rows.append(self.row)
        self.row = entered

    def generated(
        self, generation: Generation, temperature: float, wall_s: float, by: str | None = None
    ) -> None:
        """One generation's tokens; a partner's are an observation that names it."""
        self.generate_s += wall_s
        if by is not None:
            self.row = self.row.append(Segment(Origin.OBSERVATION, generation.token_ids, policy=by))
        elif self.demo:
            self.row = self.row.append(Segment(Origin.DEMO, generation.token_ids))
        else:
            self.row = self.row.append(*sampled_segments(generation, temperature))

    def acted(self, action: Action) -> None:
        """The generation as text."""
        self.messages.append(
            Message(
                "assistant", action.text, tool_calls=action.tool_calls, reasoning=action.reasoning
            )
        )

    def stepped(self, action: Action, result: StepResult) -> None:
        """One step's rewards and ledger lines."""
        self.env_reward += result.reward
        self.answer = result.info.answer if result.info.answer is not None else self.answer
        self.excluded = result.info.excluded or self.excluded
        written = {call.id: call for call in action.tool_calls}
        for outcome in result.info.results:
            call = written.get(outcome.call_id)
            self.calls.append(
                CallRecord(
                    turn=self.n_turns - 1,
                    name=call.name if call else "",
                    arguments=json.dumps(call.arguments, default=str) if call else "",
                    content=outcome.content,
                    error=outcome.error,
                    truncated=outcome.truncated,
                    wall_s=outcome.wall_s,
                    queue_s=outcome.queue_s,
                )
            )

    @property
    def n_calls(self) -> int:
        """Calls answered so far; an action that could not be read called nothing."""
        return sum(call.error != "parse" for call in self.calls)

    def unreadable(self, action: Action) -> None:
        """A ledger line for an action that could not be read."""
        self.calls.append(
            CallRecord(
                turn=self.n_turns - 1, name="", arguments=action.text, error="parse",
                content=action.parse_error or "", truncated=False, wall_s=0.0, queue_s=0.0,
            )
        )  # fmt: skip

    def observed(self, messages: Sequence[Message], spans: Sequence[Span]) -> None:
        """The environment's answer, as messages and as ids."""
        self.messages.extend(messages)
        self.place(spans)

    def place(self, spans: Sequence[Span]) -> None:
        """Ids that the policy did not write."""
        self.row = self.row.append(*(Segment(s.origin, s.token_ids) for s in spans))

    def now(self) -> Moment:
        """What `branch` needs to go back to this moment."""
        return Moment(
            len(self.messages),
            len(self.calls),
            self.n_turns,
            self.env_reward,
            self.answer,
            self.excluded,
        )

    def branch(self, uid: str, sibling: int, at: int, since: Moment) -> Recorder:
        """The record of a branch that shares the present row's first `at` tokens.

        Messages, ledger and sums are those of `since`.
        """
        return replace(
            self,
            uid=uid,
            sibling=sibling,
            row=self.row.fork(at),
            rows=list(self.rows),
            messages=self.messages[: since.n_messages],
            calls=self.calls[: since.n_calls],
            n_turns=since.n_turns,
            env_reward=since.env_reward,
            answer=since.answer,
            excluded=since.excluded,
            inherited=since.n_calls,
            replayed=0,
            parent=self.uid,
            fork_tokens=at,
            generate_s=0.0,
            queue_s=0.0,
            started=monotonic(),
        )

    def finish(self, stop: StopReason, error: str | None = None) -> Trajectory:
        """The frozen record; `error` belongs to StopReason.ERROR."""
        own = self.calls[self.inherited :]
        return Trajectory(
            uid=self.uid,
            task=self.task,
            sibling=self.sibling,
            rows=tuple(row for row in (*self.rows, self.row) if len(row)),
            messages=tuple(self.messages),
            stop=stop,
            rewards={} if error is not None else {"env": self.env_reward},
            calls=tuple(self.calls),
            n_turns=self.n_turns,
            answer=self.answer,
            seed=self.seed,
            error=error,
            excluded=self.excluded,
            parent=self.parent,
            fork_tokens=self.fork_tokens,
            n_executed=sum(call.ran for call in own) + self.replayed,
            timings=Timings(
                generate_s=self.generate_s,
                tool_s=sum(call.wall_s for call in own),
                queue_s=self.queue_s + sum(call.queue_s for call in own),
                total_s=monotonic() - self.started,
            ),
        )
