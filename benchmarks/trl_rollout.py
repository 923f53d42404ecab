"""Rollouts with a slow tool beside TRL's: its AsyncRolloutWorker, and the rollout of its GRPOTrainer.

    OMP_NUM_THREADS=1 BENCH_DIR=/tmp/bench python ../shared/bench/mktool.py 150      # once: the model
    OMP_NUM_THREADS=1 BENCH_DIR=/tmp/bench python benchmarks/trl_rollout.py
    OMP_NUM_THREADS=1 BENCH_DIR=/tmp/bench python benchmarks/trl_rollout.py --grpo   # minutes longer

The same 2.8M Qwen2 that calls a 0.5 s tool three times and answers, the same prompts, 8 samples of each,
at most 128 tokens a turn, 64 in flight, continuous flow. TRL's programs run as they are, ours and theirs
in turns; the first 64 rollouts of both are warm-up, and the barrier (64 started together, all back) is
reported by itself. Writes results/trl_rollout.json, or trl_rollout_vllm.json with that engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from machine import about_this_machine
from rollout_world import slow_tool

from agentrl.chat.base import Renderer
from agentrl.chat.chatml import qwen25
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.context import Context
from agentrl.engine.base import Engine, Sampling
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.points import Ctx
from agentrl.rollout.limits import Limits
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.rollout.slots import Slots
from agentrl.tool import Tool, call_tool
from agentrl.trajectory import Trajectory
from agentrl.transcript import Int32Array, ids_array
from agentrl.types import Message, Task

RESULTS = Path(__file__).parent / "results" / "trl_rollout.json"
THEIRS = Path(__file__).parents[2] / "shared" / "bench"
TOOLS = [{"type": "function", "function": {
    "name": "slow", "description": "Looks up x.",
    "parameters": {"type": "object", "properties": {"x": {
        "type": "integer", "description": "the step number"}}, "required": ["x"]},
    "return": {"type": "string", "description": "The result."}}}]  # fmt: skip
"""The tool as TRL tells the model of it."""
GROUP, PROMPTS, IN_FLIGHT = 8, 64, 64


class AsTRL:
    """The Qwen2.5 renderer, its first messages as TRL's template and tool description have them."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._published = AutoTokenizer.from_pretrained(folder)
        self._renderer = qwen25(load_tokenizer(folder))
        self._known: dict[str, Int32Array] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._renderer, name)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32Array:
        """Cached by question: siblings share it."""
        question = messages[-1].content
        if question not in self._known:
            ids = self._published.apply_chat_template(
                [{"role": "user", "content": question}], tools=TOOLS, add_generation_prompt=True,
                tokenize=True, return_dict=False,
            )  # fmt: skip
            self._known[question] = ids_array(ids)
        return self._known[question]


class Find(Env):
    """Any number of calls; a turn without one ends it."""

    def __init__(self, slow: Tool) -> None:
        self.tools = (slow,)
        self._ctx = Context()

    async def open(self, ctx: Context) -> None:
        self._ctx = ctx

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if not action.tool_calls:
            return StepResult((), float(len(action.text) % 13), True, False, StepInfo())
        tools = {tool.name: tool for tool in self.tools}
        found = [await call_tool(tools, call, self._ctx) for call in action.tool_calls]
        shown = tuple(Message("tool", r.content, call_id=r.call_id) for r in found)
        return StepResult(shown, 0.0, False, False, StepInfo(results=tuple(found)))


def our_parts(engine: Engine, folder: Path, latency: float) -> Parts:
    renderer: Renderer = AsTRL(folder)  # type: ignore[assignment]
    slow = slow_tool(latency)
    return Parts(
        make_env=lambda: Find(slow),
        engine=engine,
        renderer=renderer,
        protocol=Hermes(),
        limits=Limits(max_turns=9, max_calls=8, turn_tokens=128, max_tokens=1024),
        sampling=Sampling(max_tokens=1),
        tool_slots=Slots(512),
    )


async def flow(engine: Engine, folder: Path, n: int, latency: float, seed: int) -> dict:
    """`n` rollouts, IN_FLIGHT at once: seconds of each 64 after the first, calls, tokens."""
    runner = Episodes(our_parts(engine, folder, latency), seed=seed, in_flight=IN_FLIGHT)
    marks: list[float] = []
    done: list[Trajectory] = []
    started = time.perf_counter()

    async def one(i: int) -> None:
        question = f"find item {10 + (i // GROUP) % PROMPTS}"
        task = Task(f"{i // GROUP}", question)
        done.append(await runner.run(task, i % GROUP, Ctx(0, 1, seed)))
        if len(done) % 64 == 0 or (not marks and len(done) == n):
            marks.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for i in range(n):
            group.create_task(one(i))
    return {
        "cumulative_s_per_64": [round(x, 3) for x in marks],
        "s_per_64": (marks[-1] - marks[0]) / (len(marks) - 1) if len(marks) > 1 else marks[0],
        "calls": sum(t.n_calls for t in done) / n,
        "tokens": sum(t.n_sampled for t in done) / n,
    }


def theirs(n: int, latency: float) -> dict:
    """TRL's AsyncRolloutWorker, in a process of its own with its own server."""
    command = [sys.executable, str(THEIRS / "trl_async_rollout.py"), str(latency), str(n)]
    found = last_json(command, "cumulative_s_per_64", 280)
    marks = found["cumulative_s_per_64"]
    found["s_per_64"] = (marks[-1] - marks[0]) / (len(marks) - 1)
    return found


def grpo(latency: float) -> dict:
    """One step of TRL's GRPOTrainer with the same tool."""
    command = [sys.executable, str(THEIRS / "trl_baseline.py"), "--mode", "tools", "--latency",
               str(latency), "--steps", "1"]  # fmt: skip
    return last_json(command, "step_s", 600)


def last_json(command: Sequence[str], key: str, timeout_s: float) -> dict:
    told = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    for line in reversed(told.stdout.splitlines()):
        if line.startswith("{") and key in line:
            return json.loads(line)
    raise SystemExit(f"{command[1]} told nothing:\n{told.stdout[-2000:]}\n{told.stderr[-2000:]}")


async def measure(engine: Engine, folder: Path, options: argparse.Namespace) -> dict:
    await engine.open()
    ours, other, barrier = [], [], []
    await flow(engine, folder, 16, 0.0, 0)  # warm-up
    for repetition in range(options.repetitions):
        if not options.ours_only:
            other.append(await asyncio.to_thread(theirs, options.rollouts, options.latency))
        ours.append(await flow(engine, folder, options.rollouts, options.latency, repetition))
        barrier.append(
            (await flow(engine, folder, 64, options.latency, 100 + repetition))["s_per_64"]
        )
    await engine.close()
    return {"ours": ours, "theirs": other, "barrier_s": barrier}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--rollouts", type=int, default=512)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--grpo", action="store_true", help="also one step of TRL's GRPOTrainer")
    parser.add_argument("--ours-only", action="store_true")
    options = parser.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    folder = Path(os.environ.get("BENCH_DIR", THEIRS / "_out")) / "tinytool"
    started = about_this_machine()
    found = asyncio.run(measure(make(options.engine, folder), folder, options))
    record = {"schema_version": 1, "what": "64 rollouts of 3 calls of a 0.5 s tool", "machine": started,
              "engine": options.engine, "rollouts": options.rollouts, **found}  # fmt: skip
    ours = [x["s_per_64"] for x in found["ours"]]
    told = f"ours {statistics.median(ours):.2f} s per 64 ({min(ours):.2f} .. {max(ours):.2f}), "
    told += f"{found['ours'][0]['calls']:.2f} calls, {found['ours'][0]['tokens']:.0f} tokens each; "
    told += f"barrier of 64 {statistics.median(found['barrier_s']):.2f} s"
    if found["theirs"]:
        ratios = [
            b["s_per_64"] / a["s_per_64"]
            for a, b in zip(found["ours"], found["theirs"], strict=True)
        ]
        record |= {"faster_than_async_worker": round(statistics.median(ratios), 2),
                   "faster_min": round(min(ratios), 2), "faster_max": round(max(ratios), 2)}  # fmt: skip
        told += f"; AsyncRolloutWorker {statistics.median(x['s_per_64'] for x in found['theirs']):.2f} s: "
        told += f"{record['faster_than_async_worker']:.2f}x"
    if options.grpo:
        step = grpo(options.latency)
        record["grpo"] = step
        record["faster_than_grpo_rollout"] = round(
            statistics.median(step["generate_s"]) / statistics.median(found["barrier_s"]), 1
        )
        record["faster_than_grpo_flow"] = round(
            statistics.median(step["generate_s"]) / statistics.median(ours), 1
        )
        told += f"; GRPOTrainer's rollout {step['generate_s']} s: "
        told += f"{record['faster_than_grpo_rollout']:.1f}x the barrier, "
        told += f"{record['faster_than_grpo_flow']:.1f}x the flow"
    print(told)
    results = RESULTS if options.engine == "transformers" else RESULTS.with_stem("trl_rollout_vllm")
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(record, indent=1) + "\n")


def make(name: str, folder: Path) -> Engine:
    from agentrl.engine.transformers import TransformersEngine
    from agentrl.engine.vllm.engine import VllmEngine

    kind = VllmEngine if name == "vllm" else TransformersEngine
    return kind(folder, tokenizer=load_tokenizer(folder), max_batch=IN_FLIGHT, max_context=1024)


if __name__ == "__main__":
    main()
