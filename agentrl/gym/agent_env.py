"""One agentrl environment as a `gymnasium.Env`."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar, final

import gymnasium
from gymnasium.error import ResetNeeded

from agentrl.chat.base import Inline, Presented, ToolProtocol
from agentrl.chat.opening import open_conversation
from agentrl.compose import config_root, read_yaml
from agentrl.config import Plugin, RunConfig, validated
from agentrl.env import Env, Observation, StepResult, TaskGenerator
from agentrl.errors import UserError
from agentrl.gym.session import LoopThread, Session
from agentrl.gym.text_space import UnicodeText
from agentrl.plugins import build, maker
from agentrl.seeds import derive
from agentrl.train.setup import env_factory, eval_tasks
from agentrl.transcript import ids_array
from agentrl.types import Task

T = TypeVar("T")

Info: TypeAlias = "dict[str, Any]"
"""Gymnasium's own open dictionary; it goes no further than its callers."""

OPEN_S = 120.0
"""Deadline of a reset, and of a close: a sandbox may have to warm up."""


@final
class AgentEnv(gymnasium.Env[str, str]):
    """Observations and actions are text.

    An action is what a model would write in one turn, read by the environment's own protocol; an
    observation is what the model would be shown. Everything asynchronous runs in a loop of its
    own, so this works inside a running event loop too. The sandbox opens when a tool first needs
    it and ends with `close`.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  Gymnasium's own declaration

    def __init__(
        self,
        name: str,
        *,
        render_mode: str | None = None,
        sandbox: str = "local",
        data: str | None = None,
        **options: Any,
    ) -> None:
        """Make the environment.

        Args:
            name: a name of `agentrl list env`, `module:Attr` or `file.py:Attr`.
            render_mode: `ansi` to have `render` return the conversation.
            sandbox: the back end that runs what the model writes.
            data: a jsonl or parquet file of tasks; without it the environment generates them.
            options: the `env.*` keys of `agentrl train`.

        Raises UserError on an unknown name or option.
        """
        self.render_mode = render_mode
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self._config = _config(name, sandbox, data, options)
        make_env = env_factory(self._config.env)
        self._sample = make_env()
        self._tasks = () if data is None else tuple(eval_tasks(self._config, self._sample))
        self._protocol = _protocol(self._config, self._sample)
        self._session = Session(make_env, maker("sandbox", self._config.sandbox))
        self._thread: LoopThread | None = None
        self._turn = 0
        self._shown: list[str] = []

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        """Start a task: `options["task"]` if given, else one that the seed chooses."""
        super().reset(seed=seed)
        given: Mapping[str, Any] = options or {}
        draw = int(self.np_random.integers(2**31))
        task = given["task"] if "task" in given else self._choose(draw)
        if not isinstance(task, Task):
            raise UserError("options['task'] must be an agentrl.types.Task")
        env, first = self._wait(self._session.start(task), OPEN_S)
        opening = open_conversation(self._protocol, first, env.tools)
        self._turn = 0
        self._shown = [_joined(opening.messages)]
        described = [tool.name for tool in env.tools]
        return self._shown[0], {"task_id": task.id, "tools": described}

    def _choose(self, draw: int) -> Task:
        if self._tasks:
            return self._tasks[draw % len(self._tasks)]
        if not isinstance(self._sample, TaskGenerator):
            raise UserError(
                f"{self._config.env.name} generates no tasks; give data=FILE or options={{'task': ...}}"
            )
        return next(iter(self._sample.tasks("train", seed=derive("gym", draw))))

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn. Raises ResetNeeded without a live episode, WorldFault when the world fails."""
        if self._session.env is None:
            raise ResetNeeded("call reset() before step()")
        parsed = self._protocol.parse(ids_array(()), action, turn=self._turn)
        result = self._wait(self._session.step(parsed), self._config.env.episode_s or 600.0)
        self._turn += 1
        text = _text(self._protocol.present(result.observation, text=action))
        self._shown += [f"> {action}", text]
        full = self._turn >= self._config.env.max_turns and not result.terminated
        return (
            text,
            float(result.reward),
            result.terminated,
            result.truncated or full,
            _told(result),
        )

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The conversation so far, in mode `ansi`."""
        return "\n\n".join(self._shown) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the episode, the sandbox and the loop's thread. Idempotent."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            try:
                thread.wait(self._session.close(), deadline_s=OPEN_S)
            finally:
                thread.close()

    def _wait(self, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        if self._thread is None:
            self._thread = LoopThread()
        return self._thread.wait(work, deadline_s=deadline_s)


def _config(name: str, sandbox: str, data: str | None, options: Mapping[str, Any]) -> RunConfig:
    path = config_root() / "env" / f"{name}.yaml"
    group = read_yaml(path) if path.is_file() else {"name": name}
    group.pop("with", None)
    tree = {"env": {**group, **options}, "sandbox": {"name": sandbox}, "data": {"path": data}}
    return validated(tree)


def _protocol(config: RunConfig, env: Env) -> ToolProtocol:
    return build("protocol", Plugin(name=config.env.protocol or env.protocol))


def _joined(messages: Observation) -> str:
    return "\n\n".join(message.content for message in messages)


def _text(presented: Presented) -> str:
    text = presented.text if isinstance(presented, Inline) else _joined(presented.messages)
    return text.encode("utf-8", "replace").decode("utf-8")


def _told(result: StepResult) -> Info:
    """What repeats under a seed: no times.

    `context` names the fresh context that the text begins, or the known one it goes on in; `by` the
    partner whose turn it is, which the caller writes.
    """
    told = result.info
    calls = [{"error": r.error, "truncated": r.truncated} for r in told.results]
    return {
        "calls": calls,
        "answer": told.answer,
        "excluded": told.excluded,
        "context": told.context,
        "by": told.by,
    }
