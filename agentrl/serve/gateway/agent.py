"""The agent mode: a request is answered by our own loop, tools and sandbox included.

What happens on the way is told as `reasoning_content`, which chat programs show apart from the
answer, and for programs as `agentrl` beside each choice. A stream advances turn by turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count

from agentrl.env import Action
from agentrl.rollout.episode import LiveEpisode
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.slots import Slots
from agentrl.serve.gateway.answers import (
    DONE,
    Choice,
    Head,
    Push,
    Usage,
    chunk,
    completion,
    summed,
    usage_chunk,
)
from agentrl.serve.gateway.assistant import Assistant, Step
from agentrl.serve.gateway.turns import Finish, spoken
from agentrl.serve.gateway.wire import ApiError, ChatRequest
from agentrl.trajectory import StopReason
from agentrl.types import JsonValue, Message, Task

CROWD = 8
"""Answers that may wait for each that is being written; beyond that clients are sent away."""
Told = Callable[[Step], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice."""

    message: Message
    """The last turn."""
    finish: Finish
    steps: tuple[Step, ...]
    """What led to it."""
    usage: Usage

    @property
    def choice(self) -> Choice:
        """What a request without `stream` is answered."""
        seen = "".join(map(activity, self.steps)) + (self.message.reasoning or "")
        turns: JsonValue = [step_json(step) for step in self.steps]
        extra: dict[str, JsonValue] = {"agentrl": {"turns": turns}} if self.steps else {}
        return Choice(replace(self.message, reasoning=seen or None), self.finish, extra)


class Agent:
    """Implements `Backend`: an environment's tools for whoever asks."""

    def __init__(
        self, name: str, parts: Parts, *, seed: int = 0, in_flight: int = 16, call_s: float = 30.0
    ) -> None:
        """name: of the model, as answers tell it. seed: of requests that bring none. in_flight:
        answers written at once. call_s: deadline of one tool call."""
        self._name, self._parts, self._seed, self._call_s = name, parts, seed, call_s
        self._slots = Slots(in_flight, name="place for an answer")
        self._crowd = CROWD * in_flight
        self._asked = count()

    async def complete(self, request: ChatRequest, who: str) -> Mapping[str, JsonValue]:
        """See `Backend.complete`."""
        found = await self._answers(request, _silent)
        choices = [answer.choice for answer in found]
        return completion(Head(self._name), choices, summed([a.usage for a in found]), {})

    async def stream(self, request: ChatRequest, who: str, push: Push) -> None:
        """See `Backend.stream`; each turn is sent as it ends."""
        head, turn = Head(self._name), asyncio.Lock()

        async def told(index: int, step: Step) -> None:
            delta = {"role": "assistant", "reasoning_content": activity(step)}
            async with turn:
                extra: dict[str, JsonValue] = {"agentrl": step_json(step)}
                await push(chunk(head, delta, index=index, extra=extra))

        found = await self._answers(request, told)
        for index, answer in enumerate(found):
            await push(chunk(head, {"role": "assistant", "content": ""}, index=index))
            if answer.message.reasoning:
                thought = {"reasoning_content": answer.message.reasoning}
                await push(chunk(head, thought, index=index))
            if answer.message.content:
                await push(chunk(head, {"content": answer.message.content}, index=index))
            await push(chunk(head, {}, index=index, finish=answer.finish))
        if request.include_usage:
            await push(usage_chunk(head, summed([a.usage for a in found])))
        await push(DONE)

    async def _answers(
        self, request: ChatRequest, told: Callable[[int, Step], Awaitable[None]]
    ) -> list[Answer]:
        """All choices, side by side. Raises ApiError."""
        _check(request)
        if self._slots.waiting + request.n > self._crowd:
            raise ApiError("too many requests are waiting: ask again later", status=429)
        seed, step = (self._seed, next(self._asked)) if request.seed is None else (request.seed, 0)
        names = Names(seed, step, Task("chat", request.messages[-1].content))

        async def one(index: int) -> Answer | ApiError:
            try:
                async with self._slots.slot():
                    return await self._answer(request, names, index, lambda s: told(index, s))
            except ApiError as error:
                return error

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(i)) for i in range(request.n)]
        found = [task.result() for task in running]
        for answer in found:
            if isinstance(answer, ApiError):
                raise answer
        return [answer for answer in found if isinstance(answer, Answer)]

    async def _answer(self, request: ChatRequest, names: Names, index: int, told: Told) -> Answer:
        steps: list[Step] = []

        async def heard(step: Step) -> None:
            steps.append(step)
            if not step.final:
                await told(step)

        parts = self._fitted(request, heard)
        episode = LiveEpisode.of(names.task, parts, names, index)
        try:
            await episode.start()
            finish = await _played(episode, request)
            text = episode.text
            trajectory = episode.finish()
        finally:
            await asyncio.shield(episode.close())
        if trajectory.stop is StopReason.ERROR:
            raise ApiError(str(trajectory.error), status=503, code="engine_failed")
        final = steps.pop() if steps and steps[-1].final else Step(Action(text))
        stop = next((s for s in request.stop if s in final.action.text), None)
        read = sum(len(row) for row in trajectory.rows) - trajectory.n_sampled
        usage = Usage(read, trajectory.n_sampled)
        return Answer(spoken(final.action, stop), finish, tuple(steps), usage)

    def _fitted(self, request: ChatRequest, heard: Told) -> Parts:
        """The parts of one answer: the request's sampling, and its conversation as environment."""
        parts, limits = self._parts, self._parts.limits
        sampling = parts.sampling
        if request.temperature is not None:
            sampling = replace(sampling, temperature=request.temperature)
        if request.top_p is not None:
            sampling = replace(sampling, top_p=request.top_p)

        def make_env() -> Assistant:
            return Assistant(
                parts.make_env(),
                request.messages,
                heard,
                max_calls=limits.max_calls,
                call_s=self._call_s,
            )

        return replace(parts, make_env=make_env, sampling=sampling)


async def _played(episode: LiveEpisode, request: ChatRequest) -> Finish:
    """Turn after turn to the answer, or to the request's own limits."""
    sampled = 0
    while episode.stop is None:
        left = None if request.max_tokens is None else request.max_tokens - sampled
        if left is not None and left <= 0:
            return "length"
        if not episode.complete:
            generation = await episode.write(max_tokens=left, stop=request.stop)
            sampled += 0 if generation is None else len(generation.token_ids)
            if generation is not None and generation.stop_text in request.stop:
                return "stop"
        if episode.complete:
            await episode.act()
    return "stop" if episode.stop is StopReason.TERMINATED else "length"


def _check(request: ChatRequest) -> None:
    if request.tools:
        raise ApiError(
            "this server runs its own tools; serve with --mode record for a client that runs its own",
            param="tools",
        )
    if request.messages[-1].role == "assistant":
        raise ApiError("the last message must be the user's", param="messages")
    if request.logprobs or request.return_token_ids:
        raise ApiError("logprobs and token ids are told in --mode record", param="logprobs")


async def _silent(index: int, step: Step) -> None:
    """Nobody watches."""


def activity(step: Step) -> str:
    """One turn and its tools' answers as lines for people."""
    said = step.action.text.strip()
    if step.action.parse_error is not None:
        return f"{said}\n-> {step.action.parse_error}\n\n"
    answers = [f"-> {result.content}" for result in step.results]
    return "\n".join([said, *answers]) + "\n\n"


def step_json(step: Step) -> dict[str, JsonValue]:
    """One turn and its calls for programs."""
    calls: list[JsonValue] = [
        {
            "name": call.name,
            "arguments": call.arguments,
            "content": result.content,
            "error": result.error,
            "wall_s": round(result.wall_s, 6),
        }
        for call, result in zip(step.action.tool_calls, step.results, strict=True)
    ]
    return {"text": step.action.text, "calls": calls, "problem": step.action.parse_error}


__all__ = ["Agent", "Answer"]
