"""How far engines and learner are apart, on the same tokens and the same weights.

    OMP_NUM_THREADS=1 python benchmarks/engine_gap.py [--engines transformers vllm vllm_server]

The shipped model answers 32 tasks, 48 tokens each, at temperatures 1 and 0.7, in fp32 and in bf16. The
learner is a plain forward of the same model by transformers (for bf16 engines: in fp32 and in bf16).
Reported per engine and arithmetic: mean and largest difference of the sampled tokens' logprobs and
entropies, and Schulman's k3 estimate of the divergence. In fp32 the mean differences must stay below
1e-5. The largest ones depend on how large the model's logits are (this one's reach 60), so the same
numbers are given for the fp32 learner against itself in float64: `yardstick`. No fp32 engine can be
expected to be closer to the learner than the learner is to the truth; it must be within 3 times that.
Writes benchmarks/results/engine_gap.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import torch
from machine import about_this_machine
from transformers import AutoModelForCausalLM

from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.config import Plugin
from agentrl.engine.base import Generation, Sampling
from agentrl.model_path import model_path
from agentrl.plugins import build
from agentrl.types import Message

RESULTS = Path(__file__).parent / "results" / "engine_gap.json"
LIMIT = 1e-5
"""Largest mean difference in fp32, in nats."""
SLACK = 3.0
"""Largest difference in fp32, as a multiple of the yardstick's."""
TASKS, TOKENS = 32, 48
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prompts(renderer: NanoRenderer) -> list[np.ndarray]:
    """Multiplications of the kind that the model was trained on."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(10, 1000, (TASKS, 2))
    return [
        renderer.prompt_ids([Message("system", "Tools: python"), Message("user", f"{a}*{b}=?")])
        for a, b in pairs.tolist()
    ]


@torch.no_grad()
def forward(model, row: np.ndarray, g: Generation, temperature: float):
    """The learner's logprobs and entropies of the generated tokens."""
    ids = torch.as_tensor(np.concatenate([row, g.token_ids]).astype(np.int64))[None]
    logits = model(ids).logits[0, len(row) - 1 : -1]
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    logprobs = torch.log_softmax(logits, -1)
    picked = logprobs.gather(1, torch.as_tensor(g.token_ids.astype(np.int64))[:, None])[:, 0]
    return picked.numpy(), torch.special.entr(logprobs.exp()).sum(-1).numpy()


async def sample(engine, rows, temperature: float) -> list[Generation]:
    """One generation per row, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                engine.generate(
                    row, Sampling(TOKENS, temperature=temperature, seed=i, entropies=True)
                )
            )
            for i, row in enumerate(rows)
        ]
    return [task.result() for task in tasks]


def said(g: Generation):
    """What the engine itself says of its tokens."""
    return g.logprobs, g.entropies


def gap(model, rows, generations, temperature: float, other=None) -> dict[str, float]:
    """Differences over all generated tokens: of the engine, or of another model, to `model`."""
    logprobs, entropies, ratios = [], [], []
    for row, g in zip(rows, generations, strict=True):
        learner, entropy = forward(model, row, g, temperature)
        mine, own = said(g) if other is None else forward(other, row, g, temperature)
        logprobs.append(np.abs(mine - learner))
        entropies.append(np.abs(own - entropy))
        ratios.append(learner.astype(np.float64) - mine)
    d, e, r = map(np.concatenate, (logprobs, entropies, ratios))
    return {
        "tokens": int(d.size),
        "logprob_mean": float(d.mean()),
        "logprob_max": float(d.max()),
        "entropy_mean": float(e.mean()),
        "entropy_max": float(e.max()),
        "k3": float((np.exp(r) - r - 1).mean()),
    }


async def measure(names: list[str]) -> list[dict[str, object]]:
    """One entry per engine, arithmetic, learner and temperature."""
    path = model_path("nano")
    tokenizer = load_tokenizer(path)
    rows = prompts(NanoRenderer(tokenizer))
    learners = {
        name: AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        for name, dtype in DTYPES.items()
    }
    exact = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    found: list[dict[str, object]] = []
    for name in names:
        for dtype in DTYPES:
            node = Plugin.model_validate({"name": name, "max_batch": TASKS, "max_context": 256})
            engine = build("engine", node, model=path, tokenizer=tokenizer, dtype=dtype)
            await engine.open()
            for temperature in (1.0, 0.7):
                drawn = await sample(engine, rows, temperature)
                for learner in dict.fromkeys([dtype, "float32"]):
                    result: dict[str, object] = dict(
                        gap(learners[learner], rows, drawn, temperature)
                    )
                    if dtype == "float32":
                        result["yardstick"] = gap(
                            exact, rows, drawn, temperature, learners["float32"]
                        )
                    found.append(
                        {
                            "engine": name,
                            "dtype": dtype,
                            "learner": learner,
                            "temperature": temperature,
                            **result,
                        }
                    )
            await engine.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm", "vllm_server"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.engines))
    mean, largest = worst(found)
    ok = mean < LIMIT and largest < SLACK
    report = {
        "what": "engine against learner on sampled tokens, in nats",
        "float32": {
            "worst_mean": mean,
            "limit_mean": LIMIT,
            "worst_largest_over_yardstick": largest,
            "limit_over_yardstick": SLACK,
        },
        "ok": ok,
        "rows": found,
        "machine": about_this_machine(),
    }
    arguments.results.write_text(json.dumps(report, indent=2) + "\n")
    for x in found:
        print(
            f"{x['engine']:13} {x['dtype']:9} learner {x['learner']:9} T={x['temperature']:<4} "
            f"logprob mean {x['logprob_mean']:.1e} max {x['logprob_max']:.1e}  "
            f"entropy mean {x['entropy_mean']:.1e} max {x['entropy_max']:.1e}  k3 {x['k3']:.1e}"
        )
    print(
        f"float32: worst mean {mean:.1e}, limit {LIMIT:g}; worst largest {largest:.2f} x the learner's "
        f"own distance to float64, limit {SLACK:g}: {'ok' if ok else 'FAILED'}"
    )
    return 0 if ok else 1


def worst(found: list[dict[str, object]]) -> tuple[float, float]:
    """In fp32: the worst mean difference, and the worst largest one over its yardstick."""
    means, ratios = [], []
    for entry in found:
        if entry["dtype"] != "float32":
            continue
        for what in ("logprob", "entropy"):
            means.append(entry[f"{what}_mean"])
            ratios.append(entry[f"{what}_max"] / entry["yardstick"][f"{what}_max"])
    return max(means), max(ratios)


if __name__ == "__main__":
    sys.exit(main())
