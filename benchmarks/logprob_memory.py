"""Memory of token logprobs and entropies at a large vocabulary, without materialising the logits.

    OMP_NUM_THREADS=1 python benchmarks/logprob_memory.py [--tokens 2048 4096]

Vocabulary 151,936, hidden size 896 (Qwen2.5-0.5B's output layer), fp32. Both ways compute logprobs
and entropies and the gradients of hidden states and weights; each runs in a process of its own, where
the peak of resident memory is read from the kernel. What counts is the peak beyond the inputs and their
gradients. Values and gradients are compared too. Writes benchmarks/results/logprob_memory.json.
Sizes above --tokens are extrapolated along the fitted line and labelled so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import torch
from machine import about_this_machine
from torch import Tensor

from agentrl.algo.head import head_scores

RESULTS = Path(__file__).parent / "results" / "logprob_memory.json"
VOCABULARY, HIDDEN = 151_936, 896
TARGET = 1 / 8
"""Largest share of the plain way's temporaries."""
CLOSE = 1e-5
"""Largest difference of each result, relative to its largest entry."""


def inputs(n_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weights, targets, temperatures."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_tokens, HIDDEN, generator=generator)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).mul_(HIDDEN**-0.5)
    targets = torch.randint(VOCABULARY, (n_tokens,), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    return hidden, weight, targets, torch.full((n_tokens,), 0.8)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor):
    """All logits, then log_softmax, as libraries do it."""
    logits = hidden @ weight.T / temperatures[:, None]
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor):
    """This project's."""
    return tuple(head_scores(hidden, weight, None, targets, temperatures))


WAYS = {"plain": plain, "agentrl": chunked}


def status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def run(way: str, n_tokens: int, pipe: Connection) -> None:
    """One forward and backward; sends the peak beyond what was there before, and the results."""
    torch.set_num_threads(1)
    given = inputs(n_tokens)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kb("VmRSS:")
    started = perf_counter()
    logprobs, entropies = WAYS[way](*given)
    (logprobs.sum() + 0.1 * entropies.sum()).backward()
    seconds = perf_counter() - started
    gradients_mb = sum(t.numel() * t.element_size() for t in given[:2]) / 2**20
    peak_mb = (status_kb("VmHWM:") - before) / 1024 - gradients_mb
    weight_grad = given[1].grad
    assert weight_grad is not None
    sample = [t.detach().clone() for t in (logprobs, entropies, given[0].grad, weight_grad[::97])]
    pipe.send((peak_mb, seconds, [t.numpy() for t in sample]))


def measured(way: str, n_tokens: int):
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run, args=(way, n_tokens, theirs))
    process.start()
    found = ours.recv()
    process.join()
    return found


def compared(n_tokens: int) -> dict[str, object]:
    found = {way: measured(way, n_tokens) for way in WAYS}
    differences = {}
    for name, a, b in zip(
        ("logprobs", "entropies", "hidden_grad", "weight_grad"),
        found["plain"][2],
        found["agentrl"][2],
        strict=True,
    ):
        differences[name] = float(abs(a - b).max() / abs(a).max())
    ratio = found["agentrl"][0] / found["plain"][0]
    return {
        "tokens": n_tokens,
        "temporaries_mb": {way: round(value[0]) for way, value in found.items()},
        "seconds": {way: round(value[1], 2) for way, value in found.items()},
        "ratio": round(ratio, 4),
        "differences": differences,
        "holds": ratio <= TARGET and max(differences.values()) <= CLOSE,
    }


def extrapolated(lines: list[dict], n_tokens: int) -> dict[str, object]:
    """Temporaries at another size along the line through the two largest measured ones."""
    (a, b) = lines[-2:]
    mb = {}
    for way in WAYS:
        slope = (b["temporaries_mb"][way] - a["temporaries_mb"][way]) / (b["tokens"] - a["tokens"])
        mb[way] = round(b["temporaries_mb"][way] + slope * (n_tokens - b["tokens"]))
    return {"tokens": n_tokens, "extrapolated": True, "temporaries_mb": mb}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096])
    options = parser.parse_args()
    lines = [compared(n) for n in sorted(options.tokens)]
    for line in lines:
        mb = line["temporaries_mb"]
        print(
            f"{'ok  ' if line['holds'] else 'MISS'} {line['tokens']:5} tokens: plain {mb['plain']} MB, "
            f"agentrl {mb['agentrl']} MB, ratio {line['ratio']:.3f} (target {TARGET}); largest "
            f"difference {max(line['differences'].values()):.1e}"
        )
    further = [extrapolated(lines, n) for n in (16_384, 65_536)] if len(lines) > 1 else []
    record = {"machine": about_this_machine(), "measured": lines, "extrapolated": further}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(line["holds"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
