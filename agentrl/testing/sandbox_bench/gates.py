"""The comparisons, what each must reach, and how its two sides are set up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from agentrl.testing.sandbox_bench import ours, peers
from agentrl.testing.sandbox_bench.ours import CORES, PRINTS, USES_BOTH, pool
from agentrl.testing.sandbox_bench.timing import Side


@dataclass(frozen=True, slots=True)
class Setting:
    """What the person at the keyboard chose."""

    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Of the `local` pool under test."""
    image: str = "agentrl-sandbox-python"
    """Docker image with Python, numpy and sympy."""
    python_in_image: str = "python3"


class Sides(NamedTuple):
    """Both sides, ready to be measured."""

    ours: Side
    peer: Side
    isolation: str


SetUp: TypeAlias = Callable[[Setting], AbstractAsyncContextManager[Sides]]


@dataclass(frozen=True, slots=True)
class Gate:
    """One comparison."""

    name: str
    ours: str
    peer: str
    least: float
    """The ratio peer / ours that must be reached."""
    set_up: SetUp
    unit: str = "ms"
    slow: bool = False
    """The peer takes so long that a round is worth several."""


def _cold(setting: Setting) -> Mapping[str, object]:
    """Nothing forked ahead: every start is measured from nothing."""
    return {**setting.options, "spares": 0}


@asynccontextmanager
async def _imports(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool(_cold(setting)) as cold:
        side = ours.one_shot(cold, USES_BOTH)
        yield Sides(side, peers.interpreter(USES_BOTH), cold.isolation)


@asynccontextmanager
async def _bare(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool(_cold(setting)) as cold:
        yield Sides(ours.one_shot(cold, "pass"), peers.interpreter("pass"), cold.isolation)


@asynccontextmanager
async def _bare_with_spares(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool(setting.options) as warm:
        yield Sides(ours.one_shot(warm, "pass"), peers.interpreter("pass"), warm.isolation)


@asynccontextmanager
async def _rate_imports(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool(setting.options) as warm:
        peer = ours.together(peers.interpreter(USES_BOTH), 2 * CORES, CORES)
        yield Sides(ours.throughput(warm, USES_BOTH), peer, warm.isolation)


@asynccontextmanager
async def _rate_exec(setting: Setting) -> AsyncGenerator[Sides]:
    async with (
        peers.docker_exec(setting.image, setting.python_in_image, PRINTS) as run,
        pool(setting.options) as warm,
    ):
        peer = ours.together(run, 4 * CORES, CORES)
        yield Sides(ours.throughput(warm, USES_BOTH), peer, warm.isolation)


@asynccontextmanager
async def _rate_run(setting: Setting) -> AsyncGenerator[Sides]:
    async with (
        peers.docker_run(setting.image, setting.python_in_image, PRINTS) as run,
        pool(setting.options) as warm,
    ):
        peer = ours.together(run, 2 * CORES, CORES)
        yield Sides(ours.throughput(warm, USES_BOTH), peer, warm.isolation)


@asynccontextmanager
async def _cell(setting: Setting) -> AsyncGenerator[Sides]:
    async with (
        peers.kernel_cells() as peer,
        pool(setting.options) as warm,
        ours.cells(warm) as side,
    ):
        yield Sides(side, peer, warm.isolation)


@asynccontextmanager
async def _start(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool(_cold(setting)) as cold:
        yield Sides(ours.starts(cold), peers.kernel_starts, cold.isolation)


@asynccontextmanager
async def _memory(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool(_cold(setting)) as cold:
        yield Sides(ours.idle_memory(cold), peers.kernel_memory, cold.isolation)


@asynccontextmanager
async def _isolation(setting: Setting) -> AsyncGenerator[Sides]:
    async with pool({"spares": 0}, "none") as bare, pool(_cold(setting)) as cold:
        yield Sides(ours.one_shot(cold, PRINTS), ours.one_shot(bare, PRINTS), cold.isolation)


@asynccontextmanager
async def _docker(setting: Setting) -> AsyncGenerator[Sides]:
    async with (
        peers.docker_exec(setting.image, setting.python_in_image, PRINTS) as peer,
        pool({"image": setting.image, "python": setting.python_in_image}, "docker") as inside,
    ):
        yield Sides(ours.one_shot(inside, PRINTS), peer, inside.isolation)


GATES: tuple[Gate, ...] = (
    Gate("one-shot / imports", "a fresh interpreter, numpy and sympy used, nothing forked ahead",
         "subprocess.run of a python that imports them", 30.0, _imports),
    Gate("one-shot / python -c pass", "a fresh interpreter, nothing forked ahead",
         "subprocess.run of `python -c pass`, no isolation, no packages", 1.0, _bare),
    Gate("one-shot with spares / python -c pass", "a fresh interpreter, two forked ahead",
         "subprocess.run of `python -c pass`", 2.5, _bare_with_spares),
    Gate("throughput / imports", f"fresh interpreters, {CORES} workers",
         "subprocess.run of a python that imports numpy and sympy", 30.0, _rate_imports),
    Gate("throughput / docker exec", f"fresh interpreters, {CORES} workers",
         "docker exec of `python -c` in a warm container", 4.0, _rate_exec),
    Gate("throughput / docker run", f"fresh interpreters, {CORES} workers",
         "docker run --rm of `python -c`", 20.0, _rate_run, slow=True),
    Gate("session cell / Jupyter cell", "a cell of a session", "a cell of a warm kernel", 20.0,
         _cell),
    Gate("session start / kernel start", "a session, numpy and sympy loaded, nothing forked ahead",
         "a kernel that answers, nothing imported", 40.0, _start, slow=True),
    Gate("idle session / idle kernel", "memory that only the session holds",
         "memory that only the kernel holds, numpy and sympy imported", 15.0, _memory, "MB", True),
    Gate("isolation / bare fork", "a fresh interpreter behind the fence",
         "the same forked without any fence", 0.5, _isolation),
    Gate("docker back end / docker exec", "a fresh interpreter inside the container",
         "docker exec of `python -c` in a warm container", 6.0, _docker),
)  # fmt: skip
"""Every comparison that has a peer. `isolation / bare fork` asks for at most twice the cost."""
