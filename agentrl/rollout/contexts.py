"""How the environment's messages become tokens of a row, and which row that is.

An environment may name contexts (`StepInfo.context`): one not named before begins a fresh row, a known
one goes on behind its own last turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.chat.base import Inline
from agentrl.chat.opening import open_conversation
from agentrl.env import Env, Observation
from agentrl.episode import Opening
from agentrl.rollout.faults import EnvFault
from agentrl.rollout.parts import Parts
from agentrl.rollout.recorder import Recorder
from agentrl.transcript import Int32Array


@dataclass(frozen=True, slots=True)
class Ending:
    """How the last turn of a row ended."""

    text: str
    ended: bool
    """By an id that ends turns."""


class Contexts:
    """Writes an episode's prompts and observations into the rows of its recorder."""

    __slots__ = ("_env", "_left", "_parts", "_recorder")

    def __init__(self, parts: Parts, env: Env, recorder: Recorder) -> None:
        self._parts, self._env, self._recorder = parts, env, recorder
        self._left: dict[str, Ending] = {}

    def branch(self, env: Env, recorder: Recorder) -> Contexts:
        """The same, over a branch's environment and record."""
        made = Contexts(self._parts, env, recorder)
        made._left = dict(self._left)
        return made

    def knows(self, context: str | None) -> bool:
        """Whether it is the present context or one that was begun."""
        return context is None or self._recorder.knows(context)

    def begin(self, first: Observation, opening: Opening | None = None) -> None:
        """The present row's prompt."""
        if opening is None:
            self._recorder.prompt(*self._opened(first))
            return
        plain = self._opened(first)[1] if opening.train == "plain" else None
        rewritten = self._opened(opening.rewrite(first))
        self._recorder.prompt(*rewritten, plain, opening.ratio_mode)

    def _opened(self, messages: Observation) -> tuple[Observation, Int32Array]:
        """The conversation's opening as messages and as ids; tools are those of this moment."""
        opened = open_conversation(self._parts.protocol, messages, self._env.tools)
        return opened.messages, self._parts.renderer.prompt_ids(opened.messages, opened.tools)

    def answer(self, observation: Observation, turn: Ending, context: str | None) -> bool:
        """Answer the turn in its own row, or in the row of `context`; True when that is another.

        Raises EnvFault when the environment has nothing to say in a fresh one.
        """
        recorder = self._recorder
        here = recorder.row.context
        self._left[here] = turn
        if context is None or context == here:
            self._observe(observation, turn)
            return False
        known = recorder.knows(context)
        if not known and not observation:
            raise EnvFault(f"the environment begins the context {context!r} without a message")
        recorder.turn_to(context)
        if known:
            self._observe(observation, self._left[context])
        else:
            self.begin(observation)
        return True

    def _observe(self, observation: Observation, after: Ending) -> None:
        """Go on in the present row behind its last turn."""
        parts = self._parts
        presented = parts.protocol.present(observation, text=after.text, ended=after.ended)
        if isinstance(presented, Inline):
            spans = parts.renderer.inline(presented)
        else:
            spans = parts.renderer.delta(presented.messages, ended=after.ended)
        self._recorder.observed(observation, spans)


__all__ = ["Contexts", "Ending"]
