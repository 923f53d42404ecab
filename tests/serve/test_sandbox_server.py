"""The sandbox server, spoken to by SandboxFusion's own client and by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sandbox_fusion as fusion

from agentrl.config import Plugin
from agentrl.errors import SandboxUnavailable, UserError
from agentrl.sandbox import SandboxLimits
from agentrl.serve.sandbox_server import listen, serve, server_of
from agentrl_sandbox.local import LocalPool

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def served(pool: LocalPool, **options: Any) -> AsyncIterator[str]:
    """The address of a server over an open pool."""
    listening = listen("127.0.0.1", 0)
    server = server_of(pool, **options)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True


async def opened(**options: Any) -> LocalPool:
    pool = LocalPool(limits=SandboxLimits(memory_mb=256, disk_mb=64), **options)
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    return pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    pool = await opened(max_sessions=4)
    yield pool
    await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(pool: LocalPool) -> AsyncIterator[str]:
    async with served(pool, max_body_mb=1) as url:
        yield url


async def code(url: str, program: str, language: str = "python", **fields: Any) -> Any:
    """The official client's answer."""
    request = fusion.RunCodeRequest(code=program, language=language, **fields)
    return await asyncio.to_thread(fusion.run_code, request, url, 1)


async def cells(url: str, *code: str, **fields: Any) -> Any:
    request = fusion.RunJupyterRequest(cells=list(code), **fields)
    return await asyncio.to_thread(fusion.run_jupyter, request, url, 1)


async def test_a_program_that_ends_well(url: str) -> None:
    answer = await code(url, "import numpy\nprint(numpy.arange(3).sum())\n41 + 1")
    assert (answer.status, answer.message, answer.compile_result) == ("Success", "", None)
    assert (answer.run_result.status, answer.run_result.return_code) == ("Finished", 0)
    assert (answer.run_result.stdout, answer.run_result.stderr) == ("3\n", "")
    assert 0 < answer.run_result.execution_time < 10


@pytest.mark.parametrize(
    ("program", "return_code", "stderr"),
    [
        ("print('kept')\n1 / 0", 1, 'File "main.py", line 2, in <module>\n    1 / 0\n'),
        ("def f(:", 1, "SyntaxError"),
        ("x = '\0'", 1, "null bytes"),
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit('bye')", 1, "bye\n"),
        ("import os; os._exit(3)", 3, ""),
        ("import os; os.abort()", -6, ""),
        ("x = [0] * 10**11", 1, "MemoryError"),
    ],
)
async def test_a_program_that_fails(url: str, program: str, return_code: int, stderr: str) -> None:
    answer = await code(url, program)
    assert (answer.status, answer.run_result.status) == ("Failed", "Finished")
    assert answer.run_result.return_code == return_code
    assert stderr in answer.run_result.stderr


async def test_a_program_that_hangs(url: str) -> None:
    answer = await code(url, "print('kept', flush=True)\nwhile True: pass", run_timeout=0.5)
    assert (answer.status, answer.run_result.status) == ("Failed", "TimeLimitExceeded")
    assert (answer.run_result.stdout, answer.run_result.return_code) == ("kept\n", None)


async def test_it_is_a_program_not_a_cell(url: str) -> None:
    program = (
        "from __future__ import annotations\nimport dataclasses, sys\n"
        "@dataclasses.dataclass\nclass P:\n    x: int\n"
        "class Loud:\n    def __repr__(self): raise ValueError\n"
        "assert __name__ == '__main__' and sys.modules['__main__'].P is P\nLoud()\n"
    )
    assert (await code(url, program)).status == "Success"


async def test_stdin(url: str) -> None:
    text = "one\ntwo\u00e9\nthree"
    lines = await code(url, "import sys\nprint(input(), sys.stdin.read().split())", stdin=text)
    assert lines.run_result.stdout == "one ['two\u00e9', 'three']\n"
    raw = await code(
        url, "import sys\nprint(sys.stdin.buffer.readline(), open(0, 'rb').read())", stdin=text
    )
    assert raw.run_result.stdout == "b'one\\n' b''\n"
    none = await code(url, "input()")
    assert "EOFError" in none.run_result.stderr


async def test_files_go_in_and_come_out(url: str) -> None:
    """Also a file of many parts, one that is missing, and after a failure."""
    blob = os.urandom(50_000)
    answer = await code(
        url,
        "data = open('in/a.bin', 'rb').read()\nopen('out.bin', 'wb').write(data[::-1])\n"
        "open('empty', 'w')\nraise SystemExit(4)",
        files={"in/a.bin": base64.b64encode(blob).decode(), "ignored": None},
        fetch_files=["out.bin", "missing", "empty", "in"],
    )
    assert answer.run_result.return_code == 4
    found = {name: base64.b64decode(text) for name, text in answer.files.items()}
    assert found == {"out.bin": blob[::-1], "empty": b""}


async def test_links_out_of_the_folder_are_not_fetched(url: str) -> None:
    answer = await code(
        url, "import os\nos.symlink('/etc/hostname', 'a')\nos.symlink('/usr', 'b')",
        fetch_files=["a", "b/bin/env"],
    )  # fmt: skip
    assert answer.files == {}


async def test_other_languages_are_refused_by_name(url: str) -> None:
    with pytest.raises(Exception, match="runs python only, not 'cpp'"):
        await code(url, "int main() {}", language="cpp")


async def test_a_notebook(url: str) -> None:
    answer = await cells(
        url, "a = 'hello'", "a", "print(a)", "import sys\nsys.stderr.write('warned\\n')\n1 / 0",
        "print(a, open('f').read())", files={"f": base64.b64encode(b"file").decode()},
        fetch_files=["f"],
    )  # fmt: skip
    assert (answer.status, answer.driver.status) == ("Success", "Finished")
    assert [cell.stdout for cell in answer.cells] == ["", "", "hello\n", "", "hello file\n"]
    assert answer.cells[1].display == [{"text/plain": "'hello'"}]
    failed = answer.cells[3]
    assert failed.stderr == "warned\n"
    assert failed.error[0]["ename"] == "ZeroDivisionError"
    assert failed.error[0]["evalue"] == "division by zero"
    assert failed.error[0]["traceback"][-1] == "ZeroDivisionError: division by zero"
    assert base64.b64decode(answer.files["f"]) == b"file"


@pytest.mark.parametrize(
    ("cell", "status", "fields"),
    [
        ("while True: pass", "TimeLimitExceeded", {"total_timeout": 0.5}),
        ("while True: pass", "TimeLimitExceeded", {"cell_timeout": 0.5}),
        ("import os; os._exit(0)", "Finished", {}),
    ],
)
async def test_a_notebook_that_breaks(
    url: str, cell: str, status: str, fields: dict[str, Any]
) -> None:
    answer = await cells(url, "print(1)", cell, "print(2)", **fields)
    assert (answer.status, answer.driver.status) == ("Failed", status)
    assert [c.stdout for c in answer.cells] == ["1\n", ""]


async def post(url: str, path: str, content: object, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return await client.post(f"{url}{path}", content=data, headers=headers, **options)


async def test_verl_style_requests(url: str) -> None:
    """The payload that verl's reward manager posts, read by its keys."""
    payload = {
        "compile_timeout": 10, "run_timeout": 10, "code": "print(input())", "stdin": "7",
        "memory_limit_MB": 1024, "language": "python", "files": {}, "fetch_files": [],
    }  # fmt: skip
    answer = (await post(url, "/run_code", payload)).json()
    assert answer["status"] == "Success"
    assert answer["run_result"]["stdout"] == "7\n"
    assert {"message", "compile_result", "executor_pod_name", "files"} <= set(answer)


async def test_a_smaller_memory_limit_is_kept_and_facts_are_told(url: str, pool: LocalPool) -> None:
    program = {"code": "x = bytearray(100 << 20)\nprint('a' * 10**6)", "language": "python"}
    roomy = (await post(url, "/run_code", program)).json()
    assert roomy["status"] == "Success"
    assert roomy["agentrl"]["isolation"] == pool.isolation
    assert roomy["agentrl"]["stdout_dropped"] == 10**6 + 1 - 65_536
    tight = (await post(url, "/run_code", {**program, "memory_limit_MB": 50})).json()
    assert "MemoryError" in tight["run_result"]["stderr"]


BAD: list[tuple[object, int, str]] = [
    (b"{", 422, "no JSON"),
    (b"[" * 100_000, 422, "no JSON"),
    ([], 422, "must be a JSON object"),
    ({"language": "python"}, 422, "`code` must be a string"),
    ({"code": 1, "language": "python"}, 422, "`code` must be a string"),
    ({"code": "1"}, 422, "`language` must be a string"),
    (
        {"code": "1", "language": "python", "run_timeout": "x"},
        422,
        "`run_timeout` must be a number",
    ),
    ({"code": "1", "language": "python", "run_timeout": 1e9}, 422, "at most 3600"),
    ({"code": "1", "language": "python", "files": {"/etc/x": ""}}, 422, "must be relative"),
    ({"code": "1", "language": "python", "files": {"a/../../x": ""}}, 422, "must be relative"),
    ({"code": "1", "language": "python", "files": {"a": "%%"}}, 422, "not base64"),
    ({"code": "1", "language": "python", "fetch_files": ["/etc/passwd"]}, 422, "must be relative"),
    ({"code": "1", "language": "python", "fetch_files": "x"}, 422, "a list of strings"),
    ({"code": "#" * (2 << 20), "language": "python"}, 413, "larger than 1048576"),
]


@pytest.mark.parametrize(("content", "status", "message"), BAD)
async def test_bad_requests_say_what_is_wrong(
    url: str, content: object, status: int, message: str
) -> None:
    answer = await post(url, "/run_code", content)
    assert answer.status_code == status
    assert message in answer.json()["error"]


async def test_a_body_that_lies_about_its_length(url: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * (1 << 16)

    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        headers = {"Content-Type": "application/json"}
        try:
            answer = await client.post(f"{url}/run_code", content=endless(), headers=headers)
        except httpx.HTTPError:
            return  # the server hung up on it, which will do as well
        assert answer.status_code == 413


async def test_web_pages_cannot_post(url: str) -> None:
    """A form or a text post needs no permission of the browser's owner; neither is taken."""
    program = {"code": "print(1)", "language": "python"}
    answer = await post(url, "/run_code", program, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


async def test_sign_of_life(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/v1/ping")).json() == "pong"
        assert (await client.get(f"{url}/run_code")).status_code == 405
        assert (await client.get(f"{url}/nothing")).status_code == 404


async def test_a_surrogate_in_the_code_is_delivered(url: str) -> None:
    content = b'{"language": "python", "code": "print(ascii(\'\\ud800\'))"}'
    answer = (await post(url, "/run_code", content)).json()
    assert "surrogates not allowed" in answer["run_result"]["stderr"]


async def gone(pool: LocalPool) -> None:
    """Wait until nothing is leased any more."""
    async with asyncio.timeout(20):
        while pool.statistics().open_sessions:  # noqa: ASYNC110 - a pool has no event for it
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["/run_code", "/run_jupyter"])
async def test_code_whose_client_hung_up_ends(url: str, pool: LocalPool, path: str) -> None:
    program = "import time\ntime.sleep(300)"
    fields = {"language": "python", "code": program, "run_timeout": 300, "files": {"f": ""}}
    with pytest.raises(httpx.ReadTimeout):
        await post(url, path, {**fields, "cells": [program], "total_timeout": 300}, timeout=0.5)
    await gone(pool)


async def test_back_pressure_many_requests_few_sessions(url: str, pool: LocalPool) -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(code(url, f"print({i})")) for i in range(24)]
    assert [t.result().run_result.stdout for t in tasks] == [f"{i}\n" for i in range(24)]
    await gone(pool)


async def test_no_session_in_time_is_told_as_such() -> None:
    pool = await opened(max_sessions=1, wait_s=0.1)
    async with served(pool) as url:
        held = await pool.acquire()
        answer = (await post(url, "/run_jupyter", {"cells": ["1"]})).json()
        assert answer["status"] == "SandboxError"
        assert "no sandbox came free" in answer["message"] or "within 0.1" in answer["message"]
        refused = await post(url, "/agentrl/run", {"code": "1"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        await held.close()


async def test_the_token_is_demanded_everywhere() -> None:
    pool = await opened()
    async with served(pool, token="s3cret", hosts=("127.0.0.1",)) as url:
        for shown in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}):
            for path in ("/run_code", "/agentrl/run", "/nothing"):
                answer = await post(url, path, {"code": "1", "language": "python"}, headers=shown)
                assert answer.status_code == 401
        good = {"Authorization": "Bearer s3cret"}
        program = {"code": "print(1)", "language": "python"}
        assert (await post(url, "/run_code", program, headers=good)).json()["status"] == "Success"
        rebound = await post(url, "/run_code", program, headers={**good, "Host": "evil.example"})
        assert rebound.status_code == 400


async def test_sessions_have_ids_nobody_guesses_and_end_when_idle() -> None:
    pool = await opened()
    async with served(pool, idle_s=0.4) as url, httpx.AsyncClient(trust_env=False) as client:
        for bad in ("1", "x" * 65, "a-b" * 8):
            assert (await client.put(f"{url}/agentrl/sessions/{bad}")).status_code == 422
        name = "a1" * 16
        session = f"/agentrl/sessions/{name}"
        assert (await client.put(url + session)).status_code == 200
        assert (await client.put(url + session)).status_code == 200
        assert pool.statistics().open_sessions == 1
        first = {"run": 1, "code": "n = globals().get('n', 0) + 1\nn", "timeout_s": 5}
        for _ in range(3):
            assert (await post(url, f"{session}/run", first)).json()["value"] == "1"
        assert (await post(url, f"{session}/run", first | {"run": 2})).json()["value"] == "2"
        assert (await post(url, f"{session}/run", first)).status_code == 409
        await gone(pool)
        assert (await post(url, f"{session}/run", first | {"run": 3})).status_code == 404
        assert (await client.delete(url + session)).status_code == 200


async def test_beyond_this_machine_only_with_a_token_or_on_ones_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AGENTRL_SANDBOX_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UserError, match=r"set \$AGENTRL_SANDBOX_TOKEN"):
            serve(Plugin(name="local"), host=host)
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        serve(Plugin(name="local"), host="192.0.2.1", allow_no_token=True)
    with pytest.raises(UserError, match="there is no sandbox named 'lokal'"):
        serve(Plugin(name="lokal"), port=0)
    taken = listen("127.0.0.1", 0)
    with taken, pytest.raises(UserError, match="choose another --host or --port"):
        serve(Plugin(name="local"), port=taken.getsockname()[1])


SERVE = """
import sys
from agentrl.config import Plugin
from agentrl.serve.sandbox_server import serve
serve(Plugin(name="local"), host=sys.argv[1], port=0, allow_no_token=True,
      announce=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
async def test_a_signal_ends_it_after_the_request_in_flight(number: signal.Signals) -> None:
    host = "127.0.0.1" if number == signal.SIGINT else "0.0.0.0"
    process = subprocess.Popen(  # noqa: ASYNC220 - it is read line by line
        [sys.executable, "-c", SERVE, host],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    url = address.replace("sandbox server at ", "").replace("0.0.0.0", "127.0.0.1")
    while (line := process.stdout.readline()) and not line.startswith("isolation: "):
        assert line.startswith("WARNING: EVERYONE WHO REACHES")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        slow = group.create_task(code(url, "import time\ntime.sleep(1)\nprint('done')"))
        await asyncio.sleep(0.5)
        process.send_signal(number)
    assert slow.result().run_result.stdout == "done\n"
    began = time.monotonic()
    _, stderr = await asyncio.to_thread(process.communicate, timeout=30)
    assert time.monotonic() - began < 20
    assert ("WITHOUT ANY TOKEN" in stderr) is (host == "0.0.0.0")
    with pytest.raises(httpx.ConnectError):
        await post(url, "/run_code", {})
