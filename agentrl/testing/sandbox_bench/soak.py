"""Very many runs on one pool: nothing may grow."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter

from agentrl.sandbox import SandboxPool
from agentrl.testing.sandbox_bench.census import census
from agentrl.testing.sandbox_bench.gates import Setting
from agentrl.testing.sandbox_bench.ours import CORES, once, pool

_WARM_UP = 256


@dataclass(frozen=True, slots=True)
class Soak:
    """What a pool held before, during and after many runs."""

    runs: int
    wrong: int
    """Runs that did not give what they must."""
    seconds: float
    counts: tuple[dict[str, int], ...]
    """First with the pool open and warm, then at each tenth."""
    closed: tuple[dict[str, int], dict[str, int]]
    """Before the pool was opened, and after it was closed."""
    grown: tuple[str, ...]
    """What there was more of at the end."""


async def soak(
    setting: Setting, runs: int, told: Callable[[str], None], rest_s: float = 3.0
) -> Soak:
    """`runs` fresh interpreters that print, write, fail, exit and are cut off in turn.

    `rest_s`: how long the pool may take after them to give up what only a busy one needs.
    """
    with _own_temporary_folder():
        outside = await _settled()
        async with pool(setting.options) as warm:
            # A pool may keep what many at once made it build; from then on nothing may grow.
            await _many(warm, _WARM_UP, [], lambda _: None)
            counts = [await _settled()]
            began = perf_counter()
            wrong = await _many(warm, runs, counts, told)
            seconds = perf_counter() - began
            counts.append(await _settled(rest_s))
        closed = (outside, await _settled())
    grown = (*grown_since(counts[: len(counts) // 2], counts[-1]), *_left(*closed))
    return Soak(runs, wrong, seconds, tuple(counts), closed, grown)


async def _many(
    warm: SandboxPool, runs: int, counts: list[dict[str, int]], told: Callable[[str], None]
) -> int:
    """Run them with as many workers as cores, count at each tenth; how many ended wrongly."""
    left = iter(range(runs))
    step = max(runs // 10, 1)
    wrong = done = 0

    async def work() -> None:
        nonlocal wrong, done
        for number in left:
            code, timeout_s, status = MIXTURE[number % len(MIXTURE)]
            wrong += (await once(warm, code, timeout_s)).status != status
            done += 1
            if done % step == 0:
                counts.append(asdict(census()))
                told(f"{done} runs, {wrong} wrong: {counts[-1]}")

    async with asyncio.TaskGroup() as group:
        for _ in range(CORES):
            group.create_task(work())
    return wrong


@contextmanager
def _own_temporary_folder() -> Generator[None]:
    """Everything temporary goes where nobody else's comes and goes."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="agentrl-soak-") as folder:
        os.chmod(folder, 0o755)
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = None
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before


async def _settled(rest_s: float = 3.0) -> dict[str, int]:
    """The least of each count over some seconds: spares come and the dead are buried meanwhile."""
    found: list[dict[str, int]] = []
    for _ in range(8):
        await asyncio.sleep(rest_s / 8)
        found.append(asdict(census()))
    return {name: min(each[name] for each in found) for name in found[0]}


def _left(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """What a closed pool left of things that can be counted."""
    names = [name for name in before if name not in ("memory_mb", "descriptors")]
    return [
        f"{name} after closing: {before[name]} -> {after[name]}"
        for name in names
        if after[name] > before[name]
    ]


def grown_since(first_half: Sequence[dict[str, int]], last: dict[str, int]) -> list[str]:
    """What there is more of, at rest after all runs, than there ever was in the first half.

    Memory may be a tenth and 16 MB more.
    """
    told: list[str] = []
    for name, count in last.items():
        most = max(each[name] for each in first_half)
        if count > (most * 1.1 + 16 if name == "memory_mb" else most):
            told.append(f"{name}: {most} -> {count}")
    return told


_PLAIN = "print(sum(range(100)))"
MIXTURE: tuple[tuple[str, float, str], ...] = (
    *[(_PLAIN, 60.0, "ok")] * 24,
    ("open('f', 'w').write('x' * 10_000)", 60.0, "ok"),
    ("import numpy as np\nfloat(np.ones(1000).sum())", 60.0, "ok"),
    ("import os\nos.makedirs('a/b/c'); os.symlink('/', 'l')", 60.0, "ok"),
    ("1 / 0", 60.0, "error"),
    ("import os\nos._exit(3)", 60.0, "exited"),
    ("import ctypes\nctypes.string_at(0)", 60.0, "signal"),
    ("import threading, time\n"
     "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()", 60.0, "ok"),
    ("while True: pass", 0.02, "timeout"),
)  # fmt: skip
"""Code, deadline, and how it must end; one in thirty-two is cut off."""
