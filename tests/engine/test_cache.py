"""Which slot's keys and values are found, copied and forgotten."""

from __future__ import annotations

import numpy as np
import torch

from agentrl.engine.architecture import Architecture
from agentrl.engine.cache import Cache, Prefix

SHAPE = Architecture("qwen2", 2, 8, 8, 2, 1, 4, 100, 1e-6, True, True, False, False, False, 64)


def cache(n_running: int = 2, n_stashed: int = 2) -> Cache:
    return Cache(
        SHAPE,
        n_running=n_running,
        n_stashed=n_stashed,
        n_positions=64,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def fill(c: Cache, slot: int, ids: np.ndarray) -> None:
    """Record ids, with keys and values that tell slot and position."""
    n = len(ids)
    c.record(np.full(n, slot), np.arange(n), ids)
    for layer in c.layers:
        layer[slot, :n] = (100 * slot + torch.arange(n)).view(n, 1, 1, 1).float()


def ids(n: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + n).astype(np.int32)


def test_the_longest_common_prefix_is_found_without_the_last_token():
    c = cache()
    fill(c, 0, ids(30))
    fill(c, 1, np.concatenate([ids(20), ids(10, 90)]))
    assert c.find(np.concatenate([ids(25), ids(9, 70)])) == Prefix(0, 25)
    assert c.find(ids(30)) == Prefix(0, 29)
    assert c.find(ids(60)) == Prefix(0, 30)
    assert c.find(np.concatenate([ids(20), ids(12, 90)])) == Prefix(1, 30)
    assert c.find(ids(15)) is None
    assert c.find(ids(40, 50)) is None


def test_a_finished_row_is_found_in_the_stash_until_newer_ones_push_it_out():
    c = cache()
    for i in range(3):
        fill(c, 0, ids(20, 20 * i))
        c.stash(0)
        c.release(0)
    assert c.find(ids(30)) is None
    found = c.find(np.concatenate([ids(20, 20), ids(3)]))
    assert found is not None
    assert found.slot >= 2
    assert found.n_tokens == 20
    assert torch.equal(c.layers[1][found.slot, :20, 0, 0, 0], torch.arange(20).float())


def test_copying_takes_keys_and_values_and_frees_a_stash_that_is_contained():
    c = cache()
    fill(c, 0, ids(20))
    c.stash(0)
    c.release(0)
    found = c.find(ids(40))
    assert found == Prefix(2, 20)
    c.copy(2, 1, 20)
    assert c.lengths.tolist() == [0, 20, 0, 0]
    assert c.layers[0][1, :20, 1, 0, 3].tolist() == list(range(20))
    assert c.find(ids(40)) == Prefix(1, 20)
    c.clear()
    assert c.find(ids(40)) is None
