"""A sandbox that runs this project's own demonstrations in the test process."""

from __future__ import annotations

import ast
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import redirect_stdout

import pytest
import pytest_asyncio

from agentrl.context import Context
from agentrl.errors import SandboxUnavailable
from agentrl.registry import resolve
from agentrl.sandbox import ExecResult, SandboxPool


class Notebook:
    """A stateful interpreter without any isolation: only for code written here."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {}
        self.ran: list[str] = []

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        self.ran.append(code)
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                value = self._cell(ast.parse(code))
        except Exception as error:  # noqa: BLE001  the code's own failure is its result
            return ExecResult("error", error=f"{type(error).__name__}: {error}")
        echo = None if value is None else repr(value)
        return ExecResult("ok", stdout=printed.getvalue(), value=echo)

    def _cell(self, tree: ast.Module) -> object:
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), self.names)
        if not isinstance(last, ast.Expr):
            return None
        return eval(compile(ast.Expression(last.value), "cell", "eval"), self.names)  # noqa: S307

    async def reset(self) -> None:
        self.names.clear()

    async def close(self) -> None:
        self.names.clear()


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def ctx(notebook: Notebook) -> Context:
    """An episode's context that leases `notebook`."""

    async def lease() -> Notebook:
        return notebook

    typed: Callable[[], Awaitable[Notebook]] = lease
    return Context(lease_sandbox=typed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local_pool() -> AsyncIterator[SandboxPool]:
    """The real sandbox; skipped where the machine cannot isolate."""
    pool = resolve("sandbox", "local")()
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    yield pool
    await pool.close()
