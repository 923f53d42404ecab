"""The remote back end: our own server's sessions, a stranger's single runs, and every way to fail."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import ExecResult, SandboxPool
from agentrl.serve.sandbox_server import listen, server_of
from agentrl.testing.sandbox_kit import check_sandbox
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.none import UnsafePool
from agentrl_sandbox.remote.fusion import DRAIN_BYTES
from agentrl_sandbox.remote.pool import RemotePool
from agentrl_sandbox.remote.wire import Wire, Wiring

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def served(pool: SandboxPool, **options: Any) -> AsyncIterator[str]:
    """The address of agentrl's server over a pool."""
    await pool.open()
    listening = listen("127.0.0.1", 0)
    server = server_of(pool, **options)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind() -> LocalPool:
    """The server's pool."""
    return LocalPool(max_sessions=4)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(behind: LocalPool) -> AsyncIterator[str]:
    try:
        async with served(behind) as url:
            yield url
    except* SandboxUnavailable as error:
        pytest.skip(str(error))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RemotePool]:
    pool = RemotePool(url=url, **options)
    try:
        await pool.open()
        yield pool
    finally:
        await pool.close()
        await pool.close()


async def gone(pool: LocalPool) -> None:
    """Wait until nothing is leased any more: the server may bury what it has given back."""
    async with asyncio.timeout(20):
        while pool.statistics().open_sessions:  # noqa: ASYNC110 - a pool has no event for it
            await asyncio.sleep(0.02)


async def test_a_session_is_as_good_as_at_home(url: str, behind: LocalPool) -> None:
    async with opened(url) as pool:
        assert pool.isolation == behind.isolation
        session = await pool.acquire()
        first = await session.run("x = 6\nprint('hi')\nx * 7", timeout_s=20)
        assert (first.status, first.stdout, first.value) == ("ok", "hi\n", "42")
        assert first.isolation == behind.isolation
        assert first.peak_rss_mb > 1
        failed = await session.run("x / 0", timeout_s=20)
        assert (failed.status, failed.error) == ("error", "ZeroDivisionError: division by zero")
        late = await session.run("while True: pass", timeout_s=0.5)
        assert late.status == "timeout"
        killed = await session.run("import os; os._exit(3)", timeout_s=20)
        assert (killed.status, killed.exit_code, killed.state_lost) == ("exited", 3, True)
        assert (await session.run("x", timeout_s=20)).status == "error"
        await session.run("x = 1", timeout_s=20)
        await session.reset()
        assert (await session.run("'x' in globals()", timeout_s=20)).value == "False"
        assert (await pool.run_once("2 ** 10", timeout_s=20)).value == "1024"
        found = pool.statistics()
        assert (found.open_sessions, found.runs, found.timeouts) == (1, 8, 1)
        await session.close()
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await session.run("1", timeout_s=5)
    await gone(behind)


async def test_closing_the_pool_ends_code_that_runs_there(url: str, behind: LocalPool) -> None:
    pool = RemotePool(url=url)
    await pool.open()
    session = await pool.acquire()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            _outcome(session.run("import time; time.sleep(100)", timeout_s=200))
        )
        await asyncio.sleep(0.5)
        await pool.close()
    assert isinstance(running.result(), SandboxError | ExecResult)
    await gone(behind)


async def _outcome(work: Awaitable[ExecResult]) -> ExecResult | SandboxError:
    try:
        return await work
    except SandboxError as error:
        return error


async def test_waiting_for_a_place_is_queue_time(url: str) -> None:
    async with opened(url, max_sessions=1) as pool:
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(pool.run_once("import time; time.sleep(0.3)", timeout_s=20))
                    for _ in range(2)]  # fmt: skip
        first, second = (run.result() for run in runs)
        assert second.queue_s > 0.25 > first.queue_s
        assert second.wall_s == pytest.approx(0.3, abs=0.29)


class Torn(httpx.AsyncBaseTransport):
    """Delivers every request, and loses the first answers to some of them."""

    def __init__(self, path: str, losses: int) -> None:
        self._real = httpx.AsyncHTTPTransport()
        self._path, self._losses = path, losses

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._real.handle_async_request(request)
        if self._path in request.url.path and self._losses:
            self._losses -= 1
            await response.aread()
            await response.aclose()
            raise httpx.ReadError("torn")
        return response

    async def aclose(self) -> None:
        await self._real.aclose()


@asynccontextmanager
async def torn(url: str, path: str, losses: int) -> AsyncIterator[RemotePool]:
    pool = RemotePool(url=url)
    pool._wire = Wire(Wiring(url, transport=Torn(path, losses)))  # pyright: ignore[reportPrivateUsage]
    try:
        await pool.open()
        yield pool
    finally:
        await pool.close()


async def test_a_lost_answer_does_not_run_the_code_twice(url: str, behind: LocalPool) -> None:
    async with torn(url, "/sessions/", 3) as pool:
        session = await pool.acquire()  # the lease's answer is lost too
        assert behind.statistics().open_sessions == 1
        for expected in ("1", "2", "3"):
            counted = await session.run("n = globals().get('n', 0) + 1\nn", timeout_s=20)
            assert counted.value == expected


async def test_a_one_shot_whose_answer_was_lost_is_not_sent_again(url: str) -> None:
    async with torn(url, "/agentrl/run", 1) as pool:
        with pytest.raises(SandboxError, match="hung up: ReadError torn"):
            await pool.run_once("1", timeout_s=20)


async def test_a_session_lost_by_the_server_is_told(url: str, behind: LocalPool) -> None:
    async with opened(url) as pool:
        session = await pool.acquire()
        path = session._path  # type: ignore[attr-defined]
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.delete(f"{url}{path}")
        with pytest.raises(SandboxError, match=r"\(404\): there is no such session"):
            await session.run("1", timeout_s=5)


async def test_a_server_that_does_not_isolate_is_refused() -> None:
    async with served(UnsafePool()) as url:
        with pytest.raises(SandboxUnavailable, match=r"'lite' is not offered .*only 'none'.*serve"):
            await RemotePool(url=url).open()
        async with opened(url, min_isolation="none") as pool:
            assert (await pool.run_once("1", timeout_s=20)).isolation == "none"


async def test_a_token_is_sent_and_a_wrong_one_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(LocalPool(), token="s3cret") as url:
        monkeypatch.setenv("MY_TOKEN", "s3cret")
        async with opened(url, token_env="MY_TOKEN") as pool:
            assert (await pool.run_once("1", timeout_s=20)).value == "1"
            assert "s3cret" not in repr(pool._wire._wiring)  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setenv("MY_TOKEN", "wrong")
        with pytest.raises(SandboxUnavailable, match=r"401.*set \$MY_TOKEN to its token"):
            await RemotePool(url=url, token_env="MY_TOKEN").open()


async def test_options_that_cannot_be_kept_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="must begin with http"):
        RemotePool(url="localhost:8080")
    with pytest.raises(UserError, match="slack_s must be positive"):
        RemotePool(url=url, slack_s=0)
    with pytest.raises(UserError, match="max_sessions"):
        RemotePool(url=url, max_sessions=0)
    with pytest.raises(UserError, match="memory_mb is the server's"):
        await RemotePool(url=url, memory_mb=5).open()
    with pytest.raises(SandboxError, match="not open"):
        await RemotePool(url=url).acquire()


class Stranger(httpx.AsyncBaseTransport):
    """Our server with its own routes hidden: what is left is a SandboxFusion."""

    def __init__(self) -> None:
        self._real = httpx.AsyncHTTPTransport()
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/agentrl"):
            return httpx.Response(404, json={"detail": "Not Found"})
        self.asked.append(request.url.path)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


def stranger(
    url: str, transport: httpx.AsyncBaseTransport | None = None, **options: Any
) -> RemotePool:
    pool = RemotePool(url=url, **options)
    wiring = Wiring(url, transport=transport or Stranger(), retries=2)
    pool._wire = Wire(wiring)  # pyright: ignore[reportPrivateUsage]
    return pool


async def test_a_stranger_counts_as_no_isolation_and_keeps_no_state(url: str) -> None:
    unstated = stranger(url)
    with pytest.raises(SandboxUnavailable, match=r"only 'none'.*sandbox\.trust_isolation"):
        await unstated.open()
    await unstated.close()
    pool = stranger(url, trust_isolation="lite")
    await pool.open()
    assert pool.isolation == "lite"
    with pytest.raises(SandboxUnavailable, match=r"keeps no state.*sandbox\.state=replay"):
        await pool.acquire()
    result = await pool.run_once("print(6 * 7)", timeout_s=20)
    assert (result.status, result.stdout, result.stderr) == ("ok", "42\n", "")
    assert (result.isolation, pool.statistics().runs) == ("lite", 1)
    await pool.close()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (
            "print('kept')\n1 / 0",
            {"status": "error", "error": "ZeroDivisionError: division by zero"},
        ),
        ("raise KeyError", {"status": "error", "error": "KeyError"}),
        ("import sys; sys.exit(5)", {"status": "exited", "exit_code": 5}),
        ("import sys; sys.exit(0)", {"status": "exited", "exit_code": 0}),
        ("import os; os._exit(0)", {"status": "exited", "exit_code": 0}),
        ("import os; os.abort()", {"status": "signal", "signal": 6}),
        ("print('x' * 200_000)", {"status": "ok", "stdout_dropped": 200_001 - 65_536 + 0}),
        ("if True:\n    print(1)", {"status": "ok", "stdout": "1\n"}),
    ],
)
async def test_what_a_stranger_says_in_our_words(
    url: str, program: str, expected: dict[str, object]
) -> None:
    pool = stranger(url, trust_isolation="lite", output_bytes=32_768)
    await pool.open()
    result = await pool.run_once(program, timeout_s=20)
    if program.startswith("print('x'"):  # cut once there and once here
        assert len(result.stdout) < 33_000
        assert result.stdout_dropped > 30_000
    else:
        assert {name: getattr(result, name) for name in expected} == expected
    await pool.close()


async def test_a_stranger_that_is_late(url: str) -> None:
    pool = stranger(url, trust_isolation="lite")
    await pool.open()
    result = await pool.run_once("while True: pass", timeout_s=0.5)
    assert (result.status, result.error) == (
        "timeout", "TimeoutError: the code did not finish within 0.5 s",
    )  # fmt: skip
    await pool.close()


async def test_state_by_replay(url: str) -> None:
    transport = Stranger()
    pool = stranger(url, transport, trust_isolation="lite", state="replay")
    await pool.open()
    session = await pool.acquire()
    assert (await session.run("x = 6\nprint('once')", timeout_s=20)).stdout == "once\n"
    failed = await session.run("y = x\n1 / 0", timeout_s=20)
    assert (failed.status, failed.error) == ("error", "ZeroDivisionError: division by zero")
    assert "1 / 0" in failed.stderr
    seen = await session.run("print(y)\nx * 7", timeout_s=20)
    assert (seen.stdout, seen.value, seen.state_lost) == ("6\n", "42", False)
    late = await session.run("while True: pass", timeout_s=0.3)
    assert (late.status, late.state_lost) == ("timeout", True)
    assert (await session.run("x", timeout_s=20)).error == "NameError: name 'x' is not defined"
    await session.run("x = 1", timeout_s=20)
    ended = await session.run("import os; os._exit(0)", timeout_s=20)
    assert (ended.status, ended.state_lost) == ("exited", True)
    await session.run("x = 1", timeout_s=20)
    await session.reset()
    assert (await session.run("'x' in globals()", timeout_s=20)).value == "False"
    assert transport.asked.count("/run_jupyter") == 9
    assert pool.statistics().open_sessions == 1
    await session.close()
    assert pool.statistics().open_sessions == 0
    await pool.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw(*answers: bytes | None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these bytes in turn, the last for ever; None says nothing at all."""
    requests: list[bytes] = []
    over = asyncio.Event()
    ended: list[asyncio.Future[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.get_running_loop().create_future())
        mine = ended[-1]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            given = answers[min(len(requests), len(answers) - 1)]
            requests.append(head)
            if given is None:
                await over.wait()
            else:
                writer.write(given)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            mine.set_result(None)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", requests
    finally:
        over.set()
        server.close()
        if ended:
            await asyncio.wait(ended, timeout=10)


def http(status: int, body: object, headers: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + content


HELLO = {"agentrl": "1", "protocol": 1, "isolation": "lite"}
GOOD = {"status": "ok", "stdout": "", "stderr": "", "isolation": "lite"}


async def asked(*answers: bytes | None, retries: int = 2, slack_s: float = 5.0) -> tuple[str, int]:
    """What one run comes to, and how often the server was asked for it."""
    async with raw(http(200, HELLO), *answers) as (url, requests):
        pool = RemotePool(url=url, retries=retries, slack_s=slack_s)
        await pool.open()
        try:
            said = str(await pool.run_once("1", timeout_s=0.5))
        except SandboxError as error:
            said = str(error)
        await pool.close()
        return said, len(requests) - 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(status: int) -> None:
    busy = http(status, {"error": "busy"})
    said, times = await asked(busy, busy, http(200, GOOD))
    assert said.startswith("ExecResult(status='ok'")
    assert times == 3


async def test_a_server_that_stays_busy_is_a_fault() -> None:
    said, times = await asked(http(503, {"error": "busy"}))
    assert "failed 3 times: 503" in said
    assert times == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(500, b"Internal Server Error"), "answered 500 with what is no JSON"),
        (http(500, {"error": "boom"}), r"refused \(500\): boom"),
        (http(400, {"error": "no"}), r"refused \(400\): no"),
        (http(200, b"<html>"), "what is no JSON"),
        (http(200, b"\xff\xfe"), "what is no JSON"),
        (http(200, b"[" * 100_000), "what is no JSON"),
        (http(200, [1]), "no object"),
        (http(200, {}), "sent no result"),
        (http(200, GOOD | {"status": "fine"}), "sent no result"),
        (http(200, GOOD | {"isolation": "best"}), "sent no result"),
        (http(200, GOOD | {"stdout": None}), "whose stdout is None"),
        (http(200, GOOD | {"wall_s": "1"}), "whose wall_s is '1'"),
        (b"SSH-2.0-OpenSSH\r\n", "hung up: RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "hung up: RemoteProtocolError"),
        (b"", "hung up: RemoteProtocolError"),
    ],
)
async def test_nonsense_is_a_fault_and_never_a_result(answer: bytes, message: str) -> None:
    said, times = await asked(answer)
    assert not said.startswith("ExecResult")
    assert re.search(message, said), said
    assert times == 1


async def test_a_server_that_hangs_is_a_fault_within_the_deadline() -> None:
    said, _ = await asked(None, slack_s=0.5)
    assert "did not answer within 1 s" in said
    trickle = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b" " * 10
    async with raw(http(200, HELLO), trickle) as (url, _):
        pool = RemotePool(url=url, slack_s=0.5, retries=0)
        await pool.open()
        with pytest.raises(SandboxError):
            await pool.run_once("1", timeout_s=0.5)
        await pool.close()


async def test_nobody_at_the_address() -> None:
    free = listen("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(SandboxUnavailable, match=r"failed 2 times: ConnectError.*sandbox serve"):
        await RemotePool(url=f"http://127.0.0.1:{port}", retries=1).open()


async def test_what_is_no_sandbox_is_not_taken_for_one() -> None:
    for body in ({"status": "Success", "run_result": {"status": "Finished", "return_code": 0}}, {}):
        async with raw(http(404, {}), http(200, body)) as (url, _):
            with pytest.raises(SandboxUnavailable):
                await RemotePool(url=url, min_isolation="none", retries=0).open()
    async with raw(http(200, HELLO | {"protocol": 2})) as (url, _):
        with pytest.raises(SandboxUnavailable, match="same version on both sides"):
            await RemotePool(url=url).open()


def fusion(outcome: str, **run: object) -> bytes:
    result = {"status": "Finished", "return_code": 0, "stdout": "", "stderr": ""} | run
    return http(200, {"status": outcome, "message": "why", "run_result": result, "files": {}})


async def strangers(*answers: bytes) -> tuple[ExecResult | SandboxError, int]:
    """What a stranger's answers to one run come to."""
    async with raw(http(404, {}), *answers) as (url, requests):
        pool = RemotePool(url=url, min_isolation="none", retries=1, slack_s=5)
        pool._level, pool._own = "none", False  # pyright: ignore[reportPrivateUsage]
        requests.append(b"")
        found = await _outcome(pool.run_once("1", timeout_s=1))
        await pool.close()
        return found, len(requests) - 1


async def test_the_known_faults_of_strangers_are_flagged() -> None:
    late, _ = await strangers(
        fusion("Failed", status="TimeLimitExceeded", stdout="x" * DRAIN_BYTES)
    )
    assert isinstance(late, ExecResult)
    assert late.status == "timeout"
    assert late.error is not None
    assert "some servers stop reading then" in late.error
    lost, _ = await strangers(fusion("Failed", return_code=3, stdout="[DecodeError] bad"))
    assert isinstance(lost, ExecResult)
    assert lost.error == "the server lost the output, which was not UTF-8"


async def test_a_strangers_own_fault_is_asked_again_and_then_raised() -> None:
    failed, times = await strangers(fusion("SandboxError"))
    assert isinstance(failed, SandboxError)
    assert str(failed) == "the sandbox server failed 3 times: why"
    assert times == 3
    mended, times = await strangers(fusion("SandboxError"), fusion("Failed", return_code=9))
    assert isinstance(mended, ExecResult)
    assert (mended.status, mended.exit_code, times) == ("exited", 9, 2)


@pytest.mark.parametrize(
    "answer",
    [
        fusion("Great"), fusion("Success", status="Error"), fusion("Success", return_code=None),
        fusion("Success", return_code=True), fusion("Success", stdout=5),
        http(200, {"status": "Success", "run_result": None}),
    ],
)  # fmt: skip
async def test_a_strangers_nonsense_is_no_result(answer: bytes) -> None:
    found, times = await strangers(answer)
    assert isinstance(found, SandboxError)
    assert times == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_whole_conformance_kit_through_the_wire(url: str) -> None:
    results = await check_sandbox(lambda: RemotePool(url=url))
    assert [(r.name, r.detail) for r in results if not r.ok] == []
    assert len(results) > 100
