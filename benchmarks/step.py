"""One full GRPO step, 8 prompts x 8 samples x 128 tokens, beside TRL's GRPOTrainer on the same model.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--steps 10] [--dtypes float32 bfloat16]

Each side lives in a process of its own and takes one step at a time, in turn: rollouts, advantages,
forward, backward, optimiser step, and the weights handed to the engine. Every sample has exactly 128
tokens. The third side is the roofline: the engine's decoding called raw, and a plain forward and
backward pass over the same rows with logits on the sampled tokens only. Needs the `bench` extra.
Prints one ratio table and writes benchmarks/results/step.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from machine import about_this_machine

RESULTS = Path(__file__).parent / "results" / "step.json"
PROMPTS, SAMPLES, NEW_TOKENS = 8, 8, 128
SHAPE = {
    "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip
TARGETS = {"float32": 1.25, "bfloat16": 1.8}
"""How much faster than TRL a step has to be."""
ROOF = 1.15
"""How much slower than raw decoding plus raw forward and backward it may be."""


def question(index: int) -> str:
    return "what is 12 + 34? the answer is " * 2 + str(index % 32)


def score(text: str) -> float:
    """Some reward that differs among siblings."""
    return float(sum(map(ord, text)) % 13)


def ours(folder: str, dtype: str, pipe: Connection) -> None:
    """agentrl's own training loop; its sink waits for the word before each step."""
    from agentrl.compose import compose
    from agentrl.engine.transformers import TransformersEngine
    from agentrl.env import Action, Env, StepInfo, StepResult
    from agentrl.registry import register
    from agentrl.train.run import train
    from agentrl.types import Message, Task

    class Endless(TransformersEngine):
        """Nothing ends a turn but its length."""

        async def generate(self, token_ids, sampling):
            return await super().generate(token_ids, replace(sampling, stop_ids=()))

    class Bare:
        """A protocol without calls."""

        name, stops = "bare", ()

        def tool_prompt(self, tools) -> str:
            return ""

        def parse(self, token_ids, text, *, turn) -> Action:
            return Action(text)

    class Asked(Env):
        """Asks once; whatever is written is cut at its length."""

        protocol = "bare"

        async def reset(self, task, *, seed):
            return (Message("user", task.question),)

        async def step(self, action) -> StepResult:
            return StepResult((), 0.0, True, False, StepInfo())

        def tasks(self, split, *, seed):
            index = 0
            while True:
                yield Task(f"{split}-{index}", question(index), "")
                index += 1

    class Size:
        async def __call__(self, trajectory, services):
            return {"size": score(trajectory.messages[-1].content)}

    class Gate:
        """A sink that lets one step through at a time."""

        def start(self, total_steps, summary) -> None:
            pipe.send("ready")
            self._wait()

        def _wait(self) -> None:
            pipe.recv()
            self._started = time.perf_counter()

        def step(self, step, metrics) -> None:
            pipe.send((time.perf_counter() - self._started, metrics["n_tokens"]))
            self._wait()

        def note(self, text) -> None:
            print(text, file=sys.stderr)

        def close(self) -> None:
            return

    for kind, made in (("engine", Endless), ("protocol", Bare), ("env", Asked), ("reward", Size)):
        register(kind, f"bench_{made.__name__.lower()}", made)
    words = [
        "env.name=bench_asked", "env.protocol=bench_bare", f"env.turn_tokens={NEW_TOKENS}",
        "env.max_tokens=512", "env.max_turns=1", f"model={folder}", "engine=bench_endless",
        f"model.dtype={dtype}", "algo.rewards=[{name: bench_size}]", "train.steps=100000",
        f"train.tasks_per_step={PROMPTS}", f"rollout.group_size={SAMPLES}", "learner.lr=1e-6",
        f"learner.micro_tokens={PROMPTS * SAMPLES * 256}", "train.checkpoint_every=100000",
        "train.stall_steps=null", "train.deterministic=false", f"dir={folder}/run",
    ]  # fmt: skip
    train(compose(words), sinks=[Gate()], command="benchmark")


def trl(folder: str, dtype: str, pipe: Connection) -> None:
    """TRL's GRPOTrainer; a callback waits for the word before each step."""
    import torch
    import transformers
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    n_tokens = [0]

    def reward(completions, completion_ids, **others) -> list[float]:
        n_tokens[0] = sum(map(len, completion_ids))
        return [score(text) for text in completions]

    class Gate(TrainerCallback):
        def on_train_begin(self, args, state, control, **others) -> None:
            pipe.send("ready")
            self._wait()

        def _wait(self) -> None:
            pipe.recv()
            self._started = time.perf_counter()

        def on_step_end(self, args, state, control, **others) -> None:
            pipe.send((time.perf_counter() - self._started, n_tokens[0]))
            self._wait()

    config = GRPOConfig(
        output_dir=f"{folder}/trl", per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES, max_completion_length=NEW_TOKENS, max_steps=100_000,
        learning_rate=1e-6, beta=0.0, report_to="none", save_strategy="no", use_cpu=True,
        bf16=dtype == "bfloat16", temperature=1.0, gradient_checkpointing=False, disable_tqdm=True,
        logging_strategy="no", generation_kwargs={"min_new_tokens": NEW_TOKENS},
    )  # fmt: skip
    torch.set_num_threads(1)
    prompts = [{"prompt": question(i)} for i in range(32)]
    GRPOTrainer(
        model=folder, reward_funcs=[reward], args=config, train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer, callbacks=[Gate()],
    ).train()  # fmt: skip


def raw(folder: str, dtype: str, pipe: Connection) -> None:
    """The roofline: decoding called raw, then one plain forward and backward pass."""
    import asyncio

    import torch
    from transformers import AutoModelForCausalLM

    from agentrl.chat.tokenizers import load_tokenizer
    from agentrl.engine.base import Sampling
    from agentrl.engine.transformers import TransformersEngine

    tokenizer = load_tokenizer(folder)
    rows = [tokenizer.encode(question(i)) for i in range(PROMPTS) for _ in range(SAMPLES)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loop = asyncio.new_event_loop()
    engine = TransformersEngine(folder, dtype=dtype, deterministic=False)
    loop.run_until_complete(engine.open())

    async def decode(seed: int) -> list:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    engine.generate(row, Sampling(max_tokens=NEW_TOKENS, seed=seed + i))
                )
                for i, row in enumerate(rows)
            ]
        return [task.result().token_ids for task in tasks]

    def learn(sampled: Sequence) -> None:
        joined = [torch.tensor([*r, *s]).long() for r, s in zip(rows, sampled, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
        starts = torch.tensor([len(row) for row in rows])[:, None]
        places = starts + torch.arange(NEW_TOKENS)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            taken = hidden.gather(1, (places - 1)[..., None].expand(-1, -1, hidden.shape[-1]))
            logits = model.lm_head(taken)
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), ids.gather(1, places).flatten()
        )
        loss.backward()
        model.zero_grad(set_to_none=True)

    pipe.send("ready")
    step = 0
    while True:
        pipe.recv()
        started = time.perf_counter()
        sampled = loop.run_until_complete(decode(1000 * step))
        decoded = time.perf_counter()
        learn(sampled)
        pipe.send((time.perf_counter() - started, sum(map(len, sampled))))
        step += 1
        del decoded


SIDES: dict[str, Callable[[str, str, Connection], None]] = {"agentrl": ours, "trl": trl, "raw": raw}


def make_model(folder: Path) -> None:
    """2.5 M parameters with the shipped byte-level tokenizer."""
    from agentrl.train.fresh import fresh_model

    fresh_model(SHAPE, folder, seed=0)


def measure(dtype: str, steps: int) -> dict[str, list[float]]:
    """Seconds of each side's steps; the first, which warms up, left out."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        pipes = {}
        for name, side in SIDES.items():
            folder = Path(temporary) / name
            make_model(folder)
            pipes[name], theirs = context.Pipe()
            context.Process(target=side, args=(str(folder), dtype, theirs), daemon=True).start()
            assert pipes[name].recv() == "ready"
        seconds: dict[str, list[float]] = {name: [] for name in SIDES}
        for step in range(-1, steps):
            for name, pipe in pipes.items():
                pipe.send("go")
                taken, n_tokens = pipe.recv()
                if n_tokens != PROMPTS * SAMPLES * NEW_TOKENS:
                    raise RuntimeError(f"{name} trained {n_tokens} tokens")
                if step >= 0:
                    seconds[name].append(taken)
        for child in mp.active_children():
            child.kill()
    return seconds


def summarised(dtype: str, seconds: dict[str, list[float]]) -> dict[str, object]:
    faster = [t / o for t, o in zip(seconds["trl"], seconds["agentrl"], strict=True)]
    over = [o / r for o, r in zip(seconds["agentrl"], seconds["raw"], strict=True)]
    return {
        "dtype": dtype,
        "seconds": {name: round(median(found), 3) for name, found in seconds.items()},
        "faster_than_trl": [round(x, 3) for x in (median(faster), min(faster), max(faster))],
        "over_the_roofline": [round(x, 3) for x in (median(over), min(over), max(over))],
        "holds": median(faster) >= TARGETS[dtype] and median(over) <= ROOF,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dtypes", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: all sides must use the same threads")
    os.environ.update(ACCELERATE_USE_CPU="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    started = about_this_machine()
    measured = {dtype: measure(dtype, options.steps) for dtype in options.dtypes}
    lines = [summarised(dtype, seconds) for dtype, seconds in measured.items()]
    for line in lines:
        faster, over = line["faster_than_trl"], line["over_the_roofline"]
        print(
            f"{'ok  ' if line['holds'] else 'MISS'} {line['dtype']:8}  {line['seconds']}  "
            f"{faster[0]:.2f}x faster than TRL ({faster[1]:.2f} .. {faster[2]:.2f}), target "
            f"{TARGETS[line['dtype']]}; {over[0]:.2f}x the roofline ({over[1]:.2f} .. {over[2]:.2f}), "
            f"target {ROOF}"
        )
    record = {"machine": started, "steps": options.steps, "summary": lines, "raw": measured}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(line["holds"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
