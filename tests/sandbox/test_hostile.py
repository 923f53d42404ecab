"""Every case of the conformance kit on every back end and level that this machine can give.

The cases are data in `agentrl.testing.sandbox_cases`, the same that `agentrl check sandbox NAME`
runs. `STANDS` is the table of what is judged; the file is run again as an ordinary user
(`test_other_user.py`) and inside containers (`test_container.py`). Cases of one stand run side by
side when its first one is due; `-k` runs only those selected. A leak that is known is an expected
failure, and a failure where it does not show.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from agentrl.sandbox import LEVELS, IsolationLevel, SandboxLimits, SandboxPool
from agentrl.testing.result import CheckResult, failures, run_checks
from agentrl.testing.sandbox_cases import (
    CASES,
    Case,
    CaseResult,
    cell_of,
    planted_secret,
    run_cases,
)
from agentrl.testing.sandbox_kit import pool_checks
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.none import UnsafePool
from agentrl_sandbox.probe import probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

LIMITS = SandboxLimits(memory_mb=256, disk_mb=16, output_bytes=20_000, open_files=64)
AT_ONCE = 8


Often = Literal["all", "hostile", "nothing"]


class Stand(NamedTuple):
    """One pool to judge."""

    backend: str
    level: IsolationLevel
    """What the pool must reach: a lower fence would pass more leaks as known."""
    make: Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[SandboxPool]]
    """A pool that is not open yet, and what it needs around it."""
    missing: str = ""
    """Why it cannot run here."""
    often: Often = "hostile"
    """What runs on every change; the rest only with `-m slow`."""


def _alone(
    pool: Callable[[], SandboxPool],
) -> Callable[..., AbstractAsyncContextManager[SandboxPool]]:
    """A pool that needs nothing around it."""
    return lambda _: nullcontext(pool())


def _lacking(level: IsolationLevel) -> str:
    return probe().why_not(level) if LEVELS.index(probe().level) < LEVELS.index(level) else ""


def _local(level: IsolationLevel, often: Often) -> Stand:
    def make() -> SandboxPool:
        return LocalPool(limits=LIMITS, min_isolation=level, max_isolation=level)

    return Stand("local", level, _alone(make), _lacking(level), often)


@asynccontextmanager
async def _docker(request: pytest.FixtureRequest) -> AsyncIterator[SandboxPool]:
    request.getfixturevalue("docker_host")
    image = request.getfixturevalue("docker_image")
    from agentrl_sandbox.docker.pool import DockerPool

    yield DockerPool(limits=LIMITS, image=image)


@asynccontextmanager
async def _jupyter(_: pytest.FixtureRequest) -> AsyncIterator[SandboxPool]:
    pytest.importorskip("jupyter_client")
    from agentrl_sandbox.jupyter.pool import JupyterPool

    yield JupyterPool(limits=LIMITS, max_sessions=AT_ONCE + 4)


@asynccontextmanager
async def _remote(_: pytest.FixtureRequest) -> AsyncIterator[SandboxPool]:
    """Our own server over the local pool."""
    pytest.importorskip("uvicorn")
    from agentrl.serve.sandbox_server import listen, server_of
    from agentrl_sandbox.remote.pool import RemotePool

    behind = LocalPool(limits=LIMITS, min_isolation="standard", max_isolation="standard")
    await behind.open()
    listening = listen("127.0.0.1", 0)
    server = server_of(behind)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        try:
            yield RemotePool(url=f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
    await behind.close()


def _often(level: IsolationLevel, best: IsolationLevel) -> Often:
    """All of it on the best level that there is; `minimal` is never taken unasked."""
    if level == best:
        return "all"
    return "nothing" if level == "minimal" else "hostile"


STANDS = (
    *(_local(level, _often(level, probe().level)) for level in LEVELS[:0:-1]),
    Stand("none", "none", _alone(lambda: UnsafePool(limits=LIMITS)), often="nothing"),
    Stand("docker", "lite", _docker),
    Stand("remote", "standard", _remote, _lacking("standard")),
    Stand(
        "jupyter", "standard", _jupyter, "" if shutil.which("bwrap") else "no bubblewrap", "nothing"
    ),
)
"""What is judged; a new back end is one line."""


def _place(stand: Stand) -> str:
    return f"{stand.backend}-{stand.level}"


def _cells() -> list[object]:
    return [
        pytest.param(stand, case, id=f"{_place(stand)}-{case.id}",
                     marks=[pytest.mark.slow] if _is_slow(stand, case) else [])
        for stand in STANDS
        for case in CASES
        if case.danger == "harmless" or stand.level != "none"
    ]  # fmt: skip


def _is_slow(stand: Stand, case: Case) -> bool:
    if stand.often == "nothing" or case.slow:
        return True
    return case.danger == "harmless" and stand.often == "hostile"


def _selected(session: pytest.Session, stand: Stand) -> list[Case]:
    """Cases of this stand that this session is going to ask for."""
    asked = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    return [p["case"] for p in asked if p.get("stand") is stand and "case" in p]


class Judged(NamedTuple):
    """What came of one stand."""

    cases: dict[str, CaseResult]
    promises: list[CheckResult]
    """Of the pool itself."""


@pytest.fixture(scope="module")
def judged() -> dict[str, Judged]:
    """By stand; filled stand by stand."""
    return {}


async def _judgement(
    stand: Stand, judged: dict[str, Judged], request: pytest.FixtureRequest
) -> Judged:
    if stand.missing:
        pytest.skip(f"{_place(stand)}: {stand.missing}")
    if _place(stand) not in judged:
        judged[_place(stand)] = await _judge(stand, request)
    return judged[_place(stand)]


async def _judge(stand: Stand, request: pytest.FixtureRequest) -> Judged:
    """Run a stand's selected cases side by side on one pool."""
    with planted_secret(), pytest.MonkeyPatch.context() as patch:
        if os.access("/dev/shm", os.W_OK):
            # The many small files of the disk bombs take a slow disk half a minute to forget.
            patch.setenv("TMPDIR", "/dev/shm")
        async with stand.make(request) as pool:
            await pool.open()
            try:
                assert pool.isolation == stand.level
                cell = await cell_of(pool, stand.backend)
                cases = _selected(request.session, stand)
                promises = await run_checks(pool_checks(pool))
                results = await run_cases(pool, cases, cell, LIMITS, at_once=AT_ONCE)
            finally:
                await pool.close()
    return Judged({result.case.name: result for result in results}, promises)


@pytest.mark.parametrize(("stand", "case"), _cells())
async def test_case(
    stand: Stand, case: Case, judged: dict[str, Judged], request: pytest.FixtureRequest
) -> None:
    result = (await _judgement(stand, judged, request)).cases[case.name]
    if result.outcome == "skipped":
        pytest.skip(result.detail)
    if result.outcome == "known leak":
        pytest.xfail(result.detail)
    assert result.outcome == "held", result.detail


@pytest.mark.parametrize(
    "stand",
    [
        pytest.param(
            stand, id=_place(stand), marks=[pytest.mark.slow] if stand.often == "nothing" else []
        )
        for stand in STANDS
    ],
)
async def test_promises(
    stand: Stand, judged: dict[str, Judged], request: pytest.FixtureRequest
) -> None:
    assert failures((await _judgement(stand, judged, request)).promises) == []


PAGE = Path(__file__).parents[2] / "sandbox" / "README.md"


def _rows(head: str) -> set[tuple[str, ...]]:
    """The rows of the page's table that begins with `head`."""
    lines = PAGE.read_text().partition(head + "\n")[2].splitlines()[1:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "any"


def test_the_page_tells_what_is_judged() -> None:
    """Which level gets all cases depends on the machine: the page tells of one that gives `strong`."""
    judged = {(stand.backend, stand.level): stand.often for stand in STANDS}
    for level in ("strong", "standard", "lite", "minimal"):
        judged["local", level] = _often(level, best="strong")
    assert _rows("| back end | level | on every change |") == {
        (f"`{backend}`", f"`{level}`", often) for (backend, level), often in judged.items()
    }


def test_the_page_tells_every_known_leak() -> None:
    leaks = {leak for case in CASES for leak in case.known}
    assert _rows("| back end | level | user | leak |") == {
        (
            _listed(leak.backends),
            _listed(leak.levels),
            ", ".join(leak.users) or "any",
            leak.reason + ("" if leak.certain else " (not every time)"),
        )
        for leak in leaks
    }
