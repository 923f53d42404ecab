"""A learner step that computes shared prefixes once, beside length-packed rows without sharing.

    OMP_NUM_THREADS=1 python benchmarks/shared_prefix.py [--steps 7] [--models small] [--scenes star]

Scenes: `star`, 16 siblings with a 512-token prompt and 128-token tails; `tree`, as ARPO makes it, 8
rollouts of one 256-token prompt, each with a first turn and an observation that three branches share.
Models: `small`, 256 wide, 4 layers; `slice`, two layers of Qwen2.5-0.5B's shape with a twelfth of its
vocabulary, so that the output layer keeps its share of the work. A step is a whole `update`: layout,
forward, loss, backward, AdamW. The sides take turns, one step each, in fp32 on the same weights and
batch, with logits on trained tokens only: `tree`; `padded`, rows sorted by length; `packed`, rows
behind one another without padding. What counts is the speed-up over the faster of the last two,
against the tokens of all rows over the tokens of the forest. Gradient norms are compared too.
Prints one ratio table and writes benchmarks/results/shared_prefix.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import about_this_machine
from transformers import Qwen2Config, Qwen2ForCausalLM

from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.types import Batch
from agentrl.points import Ctx
from agentrl.train import causal_lm
from agentrl.train.packing import pack
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

RESULTS = Path(__file__).parent / "results" / "shared_prefix.json"
TARGET = 0.7
"""Smallest speed-up, as a share of the flat/tree token ratio."""
CLOSE = 1e-5
"""Largest relative difference of the gradient norms."""
MICRO_TOKENS = 4096
MODELS = {
    "small": {
        "vocab_size": 288, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4,
    },
    "slice": {
        "vocab_size": 151_936 // 12, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 2, "num_attention_heads": 14, "num_key_value_heads": 2,
    },
}  # fmt: skip
Part = tuple[Origin, int]
Text = Callable[[Origin, int], Segment]


def star(text: Text) -> list[list[Segment]]:
    prompt = text(Origin.PROMPT, 512)
    return [[prompt, text(Origin.MODEL, 128)] for _ in range(16)]


def tree(text: Text) -> list[list[Segment]]:
    """First turns of 64 to 128 tokens, observations of 32 to 96, last turns of 64 to 128."""
    rng = np.random.default_rng(0)
    prompt = text(Origin.PROMPT, 256)
    rows = []
    for _ in range(8):
        shared = [prompt, text(Origin.MODEL, int(rng.integers(64, 129)))]
        shared.append(text(Origin.OBSERVATION, int(rng.integers(32, 97))))
        rows += [[*shared, text(Origin.MODEL, int(rng.integers(64, 129)))] for _ in range(3)]
    return rows


SCENES: dict[str, Callable[[Text], list[list[Segment]]]] = {"star": star, "tree": tree}


def batch_of(scene: str, vocab_size: int) -> Batch:
    rng = np.random.default_rng(1)

    def text(origin: Origin, n: int) -> Segment:
        ids = rng.integers(1, vocab_size, n).astype(np.int32)
        if origin is not Origin.MODEL:
            return Segment(origin, ids)
        return Segment(origin, ids, np.full(n, -1.0, np.float32), version=0)

    task = Task(id="t", question="q")
    members = tuple(
        Trajectory(
            str(i), task, i, (Transcript().append(*row),), (), StopReason.TERMINATED, reward=0.0
        )
        for i, row in enumerate(SCENES[scene](text))
    )
    batch = make_batch([Group(task, members)], pad_id=0)
    advantages = torch.from_numpy(rng.normal(size=batch.mask.shape).astype(np.float32))
    return replace(batch, advantages=advantages * batch.mask)


class Side:
    """A learner of its own that takes one step at a time."""

    def __init__(self, name: str, folder: str) -> None:
        self._learner = TorchLearner(
            folder, lr=1e-6, micro_tokens=MICRO_TOKENS, shared_prefixes=name != "padded"
        )
        self._pack = pack
        if name == "packed":  # the same layout and attention, with no branching point ever
            self._pack = partial(pack, pays=1.0, min_shared=1 << 30)
            model = self._learner._lm
            model.micro_batches = lambda batch, n, tokens=None: batch.micro_batches(n, tokens)
        self.ratio = 0.0
        """Tokens of all rows over tokens computed."""
        self.norm = 0.0
        """Of the first step's gradient."""
        self.seconds: list[float] = []

    def step(self, batch: Batch) -> None:
        causal_lm.pack = self._pack
        started = time.perf_counter()
        metrics = self._learner.update(
            batch, loss=Clip(), aggregate=Aggregate(), ctx=Ctx(step=0, total_steps=1, seed=0)
        )
        self.seconds.append(time.perf_counter() - started)
        self.norm = self.norm or metrics["grad_norm"]
        self.ratio = metrics["shared_prefix_ratio"]


def measured(model: str, scene: str, steps: int) -> dict[str, object]:
    """One line of the table; the first step of each side, which warms up, left out."""
    with tempfile.TemporaryDirectory() as folder:
        shape = MODELS[model]
        torch.manual_seed(0)
        made = Qwen2ForCausalLM(
            Qwen2Config(**shape, tie_word_embeddings=True, max_position_embeddings=2048)
        )
        made.save_pretrained(folder)
        batch = batch_of(scene, shape["vocab_size"])
        sides = {name: Side(name, folder) for name in ("tree", "padded", "packed")}
        for _ in range(steps + 1):
            for side in sides.values():
                side.step(batch)
    return summarised(model, scene, sides)


def summarised(model: str, scene: str, sides: dict[str, Side]) -> dict[str, object]:
    seconds = {name: side.seconds[1:] for name, side in sides.items()}
    flat = min(("padded", "packed"), key=lambda name: median(seconds[name]))
    faster = [f / t for f, t in zip(seconds[flat], seconds["tree"], strict=True)]
    ratio = sides["tree"].ratio
    norms = [side.norm for side in sides.values()]
    gap = (max(norms) - min(norms)) / max(norms)
    return {
        "model": model,
        "scene": scene,
        "token_ratio": round(ratio, 3),
        "seconds": {name: round(median(found), 4) for name, found in seconds.items()},
        "flat_side": flat,
        "speed_up": [round(x, 3) for x in (median(faster), min(faster), max(faster))],
        "share_of_ratio": round(median(faster) / ratio, 3),
        "norm_difference": gap,
        "raw": {name: [round(x, 4) for x in found] for name, found in seconds.items()},
        "holds": median(faster) >= TARGET * ratio and gap <= CLOSE,
    }


def shown(line: dict[str, object]) -> str:
    middle, low, high = line["speed_up"]  # type: ignore[misc]
    return (
        f"{'ok  ' if line['holds'] else 'MISS'} {line['model']:5} {line['scene']:4}  "
        f"{line['seconds']}  {middle:.2f}x faster than {line['flat_side']} ({low:.2f} .. {high:.2f}), "
        f"{line['share_of_ratio']:.2f} of the token ratio {line['token_ratio']:.2f} (target {TARGET}); "
        f"norms differ by {line['norm_difference']:.0e}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    options = parser.parse_args(arguments)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: all sides must use the same threads")
    machine = about_this_machine()
    lines = []
    for model in options.models:
        for scene in options.scenes:
            lines.append(measured(model, scene, options.steps))
            print(shown(lines[-1]), flush=True)
    record = {"machine": machine, "steps": options.steps, "micro_tokens": MICRO_TOKENS}
    RESULTS.write_text(json.dumps(record | {"summary": lines}, indent=1) + "\n")
    return 0 if all(line["holds"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
