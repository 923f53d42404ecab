"""What the rollout benchmarks share: a random model, an environment of timed tools, requests to replay.

The loop's side plays real episodes and remembers every request it made. The raw side hands the same
requests, with the same seeds, to the same engine, episode by episode and without anything between
them: both sides compute the same tokens.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.context import Context
from agentrl.engine.base import Engine, Generation, Sampling
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.episode import Episode
from agentrl.points import Ctx
from agentrl.rollout.limits import Limits
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.rollout.slots import Slots
from agentrl.seeds import derive
from agentrl.tool import Tool, call_tool, tool
from agentrl.trajectory import Trajectory
from agentrl.types import Message, Task, ToolCall

SHAPES = {
    "nano": (96, 256, 3, 3, 1),
    "2.5M": (256, 512, 4, 4, 2),
}
"""hidden, intermediate, layers, heads, KV heads."""
VOCABULARY, CONTEXT = 288, 1024
TURN_TOKENS = 128
"""Of a turn on average: all alike, or spread evenly from half to one and a half times as many."""


@contextmanager
def random_model(name: str) -> Iterator[Path]:
    """A folder with a random Qwen2 of nano's vocabulary and its tokenizer; removed afterwards."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, intermediate, layers, heads, kv_heads = SHAPES[name]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.02,
    )
    folder = Path(tempfile.mkdtemp())
    try:
        build_nano_tokenizer(folder)
        Qwen2ForCausalLM(config).save_pretrained(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


def make_engine(name: str, folder: Path, max_batch: int) -> Engine:
    """An engine of that name, not yet open, in fp32."""
    tokenizer = load_tokenizer(folder)
    if name == "vllm":
        from agentrl.engine.vllm.engine import VllmEngine

        return VllmEngine(folder, tokenizer=tokenizer, max_batch=max_batch, max_context=CONTEXT)
    from agentrl.engine.transformers import TransformersEngine

    return TransformersEngine(folder, tokenizer=tokenizer, max_batch=max_batch, max_context=CONTEXT)


def slow_tool(tool_s: float) -> Tool:
    """A tool that takes `tool_s`."""

    async def slow(x: int) -> str:
        """Looks up x.

        Args:
            x: the step number.
        """
        await asyncio.sleep(tool_s)
        return f"result {x}"

    return tool(slow)


class Timed(Env):
    """Every turn but the last calls the slow tool, whatever the model wrote."""

    def __init__(self, turns: int, slow: Tool) -> None:
        self._slow, self._turns, self._turn = slow, turns, 0
        self._ctx = Context()

    async def open(self, ctx: Context) -> None:
        self._ctx = ctx

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        self._turn += 1
        if self._turn == self._turns:
            return StepResult((), 1.0, True, False, StepInfo())
        call = ToolCall(f"call_{self._turn}", "slow", {"x": self._turn})
        found = await call_tool({"slow": self._slow}, call, self._ctx, timeout_s=600)
        shown = Message("tool", found.content, call_id=call.id, name="slow")
        return StepResult((shown,), 0.0, False, False, StepInfo(results=(found,)))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what it gave."""

    row: np.ndarray
    sampling: Sampling
    n_new: int


@dataclass
class Remembering:
    """An engine that remembers what each episode asked of it, told apart by the prompt's number."""

    engine: Engine
    asked: dict[int, list[Asked]] = field(default_factory=dict)

    @property
    def max_context(self) -> int:
        return self.engine.max_context

    def statistics(self):
        return self.engine.statistics()

    async def generate(self, token_ids: np.ndarray, sampling: Sampling) -> Generation:
        generation = await self.engine.generate(token_ids, sampling)
        number = int(bytes(token_ids[1:7].tolist()).decode())
        asked = Asked(token_ids, sampling, len(generation.token_ids))
        self.asked.setdefault(number, []).append(asked)
        return generation


async def play(episode: Episode, *, spread: bool) -> Trajectory:
    """Turns of their length, complete or not, to the end."""
    while episode.stop is None:
        n = TURN_TOKENS
        if spread:
            n += derive(episode.uid, episode.n_turns) % (TURN_TOKENS + 1) - TURN_TOKENS // 2
        if await episode.write(max_tokens=n) is None:
            break
        await episode.act()
    return episode.finish()


async def through_the_loop(
    engine: Engine,
    folder: Path,
    *,
    episodes: int,
    in_flight: int,
    turns: int,
    tool_s: float,
    seed: int,
    spread: bool = False,
) -> tuple[float, Remembering]:
    """Seconds from the first to the last, and the requests made."""
    remembering, slow = Remembering(engine), slow_tool(tool_s)
    parts = Parts(
        make_env=lambda: Timed(turns, slow),
        engine=remembering,
        renderer=NanoRenderer(load_tokenizer(folder)),
        protocol=ReTool(fence=False),
        limits=Limits(max_turns=turns, max_calls=99, max_parse_errors=99, turn_tokens=CONTEXT,
                      max_tokens=CONTEXT),
        sampling=Sampling(max_tokens=1),
        tool_slots=Slots(episodes),
    )  # fmt: skip
    runner = Episodes(parts, seed=seed, in_flight=in_flight)

    async def one(i: int) -> Trajectory:
        task = Task(f"t{i}", f"{i:06d} what is it?")
        async with runner.live(task, 0, Ctx(0, 1, seed)) as episode:
            return await play(episode, spread=spread)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(i)) for i in range(episodes)]
    wall_s = time.perf_counter() - started
    failed = [t.result().error for t in running if t.result().error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} episodes failed, the first with: {failed[0]}")
    return wall_s, remembering


async def raw(engine: Engine, asked: dict[int, list[Asked]], *, in_flight: int) -> float:
    """Seconds of the same requests alone: `in_flight` chains at once, nothing between requests."""
    chains = iter([asked[i] for i in sorted(asked)])

    async def worker() -> None:
        for chain in chains:
            for request in chain:
                generation = await engine.generate(request.row, request.sampling)
                if len(generation.token_ids) != request.n_new:
                    raise SystemExit("the replay sampled other tokens: the sides do not compare")

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    return time.perf_counter() - started


def n_tokens(asked: dict[int, list[Asked]]) -> int:
    """Sampled tokens of all requests."""
    return sum(request.n_new for chain in asked.values() for request in chain)
