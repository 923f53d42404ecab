"""A real `vllm serve`: truth of its numbers, updates under way, and its sudden end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from agentrl.engine.base import Sampling
from agentrl.engine.probe import check_sync
from agentrl.engine.vllm.process import ServerProcess, environment
from agentrl.engine.vllm.server import VllmServerEngine
from agentrl.errors import DeadlineExceeded, EngineError, UserError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's imports warn on their own account
]


def members(group: int) -> list[int]:
    """Processes of a group that still run."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, member = stat.read_text().rpartition(")")[2].split()[:3]
            if int(member) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def gone(group: int) -> None:
    """Until no process of the group is left."""
    async with asyncio.timeout(30):
        while members(group):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)


async def load(engine, model, version: int) -> None:
    await engine.begin_update(version)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    names = sorted(state)
    for part in (names[::2], names[1::2]):
        await engine.put({name: state[name] for name in part})
    await engine.finish_update()


async def test_entropies_and_tempered_scores_are_exact_over_http(connected, models, helpers):
    row = helpers.prompt(30)
    samplings = [
        Sampling(20, temperature=t, top_k=k, entropies=True, seed=1)
        for t, k in ((1.0, 0), (0.6, 0), (1.5, 4), (0.0, 0))
    ]
    for sampling in samplings:
        g = await connected.generate(row, sampling)
        full = helpers.logprobs(models["qwen2"], row, g.token_ids, sampling.temperature or 1.0)
        kth = full.sort(-1, descending=True).values[:, (sampling.top_k or 99) - 1 :][:, :1]
        sampled = torch.log_softmax(full.masked_fill(full < kth, -torch.inf), -1)
        np.testing.assert_allclose(g.logprobs, helpers.picked(sampled, g.token_ids), atol=1e-5)
        expected = torch.special.entr(sampled.exp()).sum(-1)
        np.testing.assert_allclose(g.entropies, expected, atol=1e-5)
        scored = await connected.score(np.concatenate([row, g.token_ids]), sampling)
        picked = helpers.picked(full, g.token_ids)
        np.testing.assert_allclose(scored[len(row) :], picked, atol=1e-5)


async def test_it_says_what_the_engine_in_this_process_says(connected, folders, pieces, helpers):
    """The same seeds give the same tokens whichever way vLLM is reached, stop strings included."""
    from agentrl.engine.vllm.engine import VllmEngine

    here = VllmEngine(folders["qwen2"], tokenizer=pieces, max_batch=16, kv_cache_mb=32)
    await here.open()
    row = helpers.prompt(12, 4)
    free = await here.generate(row, Sampling(24, seed=9))
    stop = (pieces.decode(free.token_ids[9:11].tolist()),)
    for sampling in (Sampling(24, seed=9), Sampling(24, seed=9, stop=stop)):
        mine, theirs = await here.generate(row, sampling), await connected.generate(row, sampling)
        assert theirs.token_ids.tolist() == mine.token_ids.tolist()
        assert (theirs.stop, theirs.stop_text) == (mine.stop, mine.stop_text)
        np.testing.assert_allclose(theirs.logprobs, mine.logprobs, atol=1e-6)
    await here.close()


async def test_sixteen_at_once_share_what_was_cached(connected, helpers):
    row = helpers.prompt(100, 21)
    connected._metrics.read()
    before = connected.statistics()
    await connected.generate(row, Sampling(1))
    await helpers.gather(*[connected.generate(row, Sampling(8, seed=s)) for s in range(16)])
    connected._metrics.read()
    after = connected.statistics()
    assert after.cached_tokens - before.cached_tokens == 16 * 96  # three blocks of 32
    assert after.generated_tokens - before.generated_tokens == 1 + 16 * 8
    assert (after.running, after.waiting, after.kv_used) == (0, 0, 0.0)


async def test_the_probe_passes_after_a_sync_and_tells_a_half_done_one(
    connected, models, folders, helpers
):
    other, probe = helpers.fresh(folders["qwen2"], 31), [helpers.prompt(60)]

    def learner(model):
        row = probe[0]
        picked = helpers.picked(helpers.logprobs(model, row[:1], row[1:]), row[1:])
        return [np.concatenate([np.zeros(1, np.float32), picked])]

    await load(connected, other, 5)
    assert (await check_sync(connected, probe, learner(other), version=5)).max_difference < 1e-5
    await load(connected, models["qwen2"], 6)
    check = await check_sync(connected, probe, learner(models["qwen2"]), version=6)
    assert check.max_difference < 1e-5


class Pace:
    """A stop matcher that tells when five tokens have come, and when to stop: three tokens into the
    weights of version `until`."""

    def __init__(self, engine, until: int | None = None) -> None:
        self.engine, self.until = engine, until
        self.five = asyncio.Event()
        self.since: list[int] = []

    def found(self, token_ids) -> str | None:
        if len(token_ids) >= 5:
            self.five.set()
        if self.engine.version == self.until:
            self.since.append(len(token_ids))
        return "late" if len(self.since) == 3 else None


async def test_tokens_in_flight_keep_what_their_own_weights_said(
    connected, models, folders, helpers, monkeypatch
):
    """Streamed or not: a new request waits for the update, one under way lives through it."""
    row, other, first = helpers.prompt(24, 3), helpers.fresh(folders["qwen2"], 5), connected.version
    pace = Pace(connected)
    monkeypatch.setitem(connected._matchers, ("never",), pace)
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        tasks = [
            group.create_task(
                connected.generate(row, Sampling(220, seed=4, stop=stop, entropies=True))
            )
            for stop in ((), ("never",))
        ]
        await pace.five.wait()
        await connected.begin_update(first + 1)
        late = group.create_task(connected.generate(row, Sampling(3)))
        await connected.put({k: v for k, v in other.state_dict().items() if k != "lm_head.weight"})
        assert not late.done()
        assert connected.statistics().waiting == 1
        await connected.finish_update()
    await load(connected, models["qwen2"], first + 2)
    assert late.result().versions == ((3, first + 1),)
    for task in tasks:
        g = task.result()
        assert [version for _, version in g.versions] == [first, first + 1]
        check(g, row, [models["qwen2"], other], helpers)


def check(g, row, drawn_by, helpers) -> None:
    """Each run's logprobs and entropies are those of the model that drew it, on the whole row."""
    start = 0
    for (n, _), model in zip(g.versions, drawn_by, strict=True):
        part = slice(start, start + n)
        full = helpers.logprobs(model, row, g.token_ids)
        picked = helpers.picked(full, g.token_ids)
        np.testing.assert_allclose(g.logprobs[part], picked[part], atol=2e-5)
        if g.entropies is not None:
            entropies = torch.special.entr(full.exp()).sum(-1)
            np.testing.assert_allclose(g.entropies[part], entropies[part], atol=2e-5)
        start += n


async def test_a_stop_string_found_after_an_update_still_tells_the_versions(
    connected, models, folders, helpers, monkeypatch
):
    """The stop string comes three tokens into the new weights; only the server knows that."""
    row, other, first = helpers.prompt(24, 3), helpers.fresh(folders["qwen2"], 5), connected.version
    pace = Pace(connected, until=first + 1)
    monkeypatch.setitem(connected._matchers, ("late",), pace)
    async with asyncio.timeout(60):
        task = asyncio.ensure_future(connected.generate(row, Sampling(220, seed=4, stop=("late",))))
        await pace.five.wait()
        await load(connected, other, first + 1)
        g = await task
    await load(connected, models["qwen2"], first + 2)
    assert (g.stop, g.stop_text, len(g.token_ids)) == ("stop_text", "late", pace.since[2])
    assert [version for _, version in g.versions] == [first, first + 1]
    check(g, row, [models["qwen2"], other], helpers)


async def test_cancelling_aborts_in_the_server(connected, helpers):
    doomed = [
        asyncio.ensure_future(
            connected.generate(helpers.prompt(9, s), Sampling(240, seed=s, stop=t))
        )
        for s, t in enumerate([(), ("never in any text",)] * 3)
    ]
    await asyncio.sleep(0.1)
    for task in doomed:
        task.cancel()
    await asyncio.gather(*doomed, return_exceptions=True)
    assert all(task.cancelled() for task in doomed)
    async with asyncio.timeout(20):
        while True:
            connected._metrics.read()
            if connected.statistics().kv_used == 0.0:
                break
            await asyncio.sleep(0.02)


async def test_what_a_foreign_server_cannot_do_is_refused(served, folders, helpers):
    """A server without our extension is played by telling the engine that it has none."""
    url = f"unix:{served._link.process.socket}"
    with pytest.raises(UserError, match=r"engine\.kv_cache_mb"):
        await VllmServerEngine(folders["qwen2"], url=url, kv_cache_mb=5).open()
    with pytest.raises(UserError, match="no address"):
        await VllmServerEngine(folders["qwen2"], url="localhost:80").open()
    with pytest.raises(EngineError, match="no vLLM server answers"):
        await VllmServerEngine(folders["qwen2"], url="unix:/nowhere").open()
    plain = VllmServerEngine(folders["qwen2"], url=url)
    await plain.open()
    plain._link.exact = False
    row = helpers.prompt(5)
    with pytest.raises(UserError, match="no exact entropies: start it with --worker-extension"):
        await plain.generate(row, Sampling(1, entropies=True))
    with pytest.raises(UserError, match="temperature 1 only"):
        await plain.score(row, Sampling(1, temperature=0.5))
    with pytest.raises(UserError, match="up to 2, not 3"):
        await plain.generate(row, Sampling(1, temperature=3.0))
    with pytest.raises(UserError, match=r"engine\.weights_dir"):
        await plain.begin_update(1)
    with pytest.raises(UserError, match="cannot sleep"):
        await plain.sleep()
    await plain.close()
    assert await served._link.client.healthy()  # closing leaves a server at a url alone


@pytest.mark.slow
async def test_a_server_that_cannot_start_says_why_and_leaves_nothing(folders):
    engine = VllmServerEngine(folders["qwen2"], kv_cache_mb=1, dtype="float99")
    with pytest.raises(EngineError, match="float99"):
        async with asyncio.timeout(100):
            await engine.open()
    assert engine._link.process is None


async def test_a_process_that_ends_before_it_answers_says_why_and_one_that_hangs_is_given_up():
    async def never() -> bool:
        return False

    async with asyncio.timeout(60):
        process = ServerProcess()
        await process.start([sys.executable, "-c", "raise RuntimeError('no such dtype')"], {})
        with pytest.raises(EngineError, match="ended with status 1: RuntimeError: no such dtype"):
            await process.ready(never, 60)
        await process.stop()
        process = ServerProcess()
        await process.start([sys.executable, "-c", "import time; time.sleep(600)"], {})
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.5 s"):
            await process.ready(never, 0.5)
        group, folder = process.group, process.folder
        await process.stop()
        await process.stop()
        await gone(group)
        assert not folder.exists()


def test_the_server_inherits_what_it_needs_and_no_secret(monkeypatch):
    for name in ("HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MY_APP"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CUDA_HOME", "/cuda")
    found = environment({"CUDA_VISIBLE_DEVICES": "1"})
    assert (found["CUDA_HOME"], found["CUDA_VISIBLE_DEVICES"]) == ("/cuda", "1")
    assert found["PATH"] == os.environ["PATH"]
    assert not {
        "HF_TOKEN",
        "VLLM_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "WANDB_API_KEY",
        "MY_APP",
    } & set(found)


async def test_killing_the_server_fails_every_request_with_the_reason(served, helpers):
    """Last in the file: kill -9 in the middle of streamed and plain requests and a pending update."""
    group, folder = served._link.process.group, served._link.process.folder
    assert len(members(group)) >= 2  # the server and its engine process
    waiting = [
        asyncio.ensure_future(served.generate(helpers.prompt(9, s), Sampling(240, seed=s, stop=t)))
        for s, t in enumerate([(), ("never in any text",)] * 2)
    ]
    await asyncio.sleep(0.15)
    os.kill(group, signal.SIGKILL)
    async with asyncio.timeout(30):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(r) for r in results] == [EngineError] * 4
    assert all("the vLLM server ended by SIGKILL" in str(r) for r in results)
    with pytest.raises(EngineError, match="SIGKILL"):
        await served.generate(helpers.prompt(5), Sampling(1))
    with pytest.raises(EngineError, match="SIGKILL"):
        await served.begin_update(9)
    assert "SIGKILL" in served.dead
    await gone(group)
    assert not folder.exists()


ORPHAN = """
    import asyncio, sys
    from agentrl.engine.vllm.process import ServerProcess

    async def main():
        process = ServerProcess()
        # Two generations of children, as the server has.
        child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', " \\
            "'import time; time.sleep(600)']); time.sleep(600)"
        await process.start([sys.executable, "-c", child], {})
        print(process.group, process._guard.pid, process.folder, flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
"""


@pytest.mark.parametrize("whom", ["parent", "guard"])
def test_nothing_survives_a_parent_or_a_guard_that_is_killed(whom):
    """The grandchild of a killed guard is the server's own to end; the server itself goes at once."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHAN)], stdout=subprocess.PIPE, text=True
    )
    numbers = parent.stdout.readline().split()
    group, guard, folder = int(numbers[0]), int(numbers[1]), Path(numbers[2])
    until(lambda: len(members(group)) == 2)
    os.kill(parent.pid if whom == "parent" else guard, signal.SIGKILL)
    until(lambda: group not in members(group))
    if whom == "parent":
        until(lambda: not members(group) and not folder.exists())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
