"""`python -m agentrl_envs.rlot [SEED ...]`: train the paper's navigator on the scripted solver."""

from __future__ import annotations

import sys
from itertools import islice

from agentrl_envs.rlot.env import Rlot
from agentrl_envs.rlot.navigator import Navigator, Pays, Settings, success, trained

HELD_OUT = 150
"""Test expressions that success is measured on."""

PAYS: tuple[Pays, ...] = ("change", "score")


def main(seeds: list[int]) -> None:
    """One line for each seed and each way to pay: success on held-out expressions, before and after."""
    env = Rlot()
    held_out = list(islice(env.tasks("test", seed=0), HELD_OUT))
    for pays in PAYS:
        for seed in seeds:
            before = success(Navigator(seed), held_out)
            net = trained(env.tasks("train", seed=seed), seed=seed, settings=Settings(pays=pays))
            print(f"paid by {pays}, seed {seed}: {before:.3f} -> {success(net, held_out):.3f}")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2])
