"""The shell: the small one inside the fence, the real one where processes may start, hostile input."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentrl.context import Context
from agentrl.env import Forkable
from agentrl.errors import ToolError
from agentrl.registry import resolve
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.testing import check_tool, failures
from agentrl_tools import inside_shell
from agentrl_tools.python import PythonTool
from agentrl_tools.shell import ShellTool

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = "Ada 36 Oslo\nBob 25 Rome\nCy 41 Oslo\n"


def by_sh(command: str, folder: Path) -> str:
    """What the system's shell prints for it."""
    (folder / "people.txt").write_text(PEOPLE)
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    ).stdout


@asynccontextmanager
async def opened(
    pool: SandboxPool, tool: ShellTool | None = None
) -> AsyncIterator[tuple[ShellTool, Sandbox]]:
    box = await pool.acquire()

    async def lease() -> Sandbox:
        return box

    shell = tool or ShellTool()
    await shell.open(Context(lease_sandbox=lease))
    try:
        yield shell, box
    finally:
        await shell.close()
        await box.close()


async def ran(shell: ShellTool, command: str) -> str:
    return (await shell(command=command)).content


@pytest.mark.parametrize(
    "command",
    [
        "cat people.txt | sort -n -k 2 | head -1",
        "grep -c Oslo people.txt && echo found || echo none",
        "grep -n 'B.b' people.txt; false || echo 'a  b' \"c\" d\\ e",
        "cut -d ' ' -f 1,3 people.txt | tr a-z A-Z",
        "cut -d ' ' -f3 people.txt | sort | uniq -c | tr -s ' '",
        "wc -l < people.txt | tr -d ' '",
        "mkdir -p a/b && touch a/b/x.py a/y.py && find a -name '*.py' | sort",
        "cp people.txt c.txt; mv c.txt d.txt; ls *.txt",
        "sed 's/Oslo/Bergen (&)/' people.txt; sed -n 2,3p people.txt",
        "sed -i 's/Bob/Rob/g' people.txt; tail -n 2 people.txt",
        'A=1; B="$A 2"; echo $A "$B" \'$A\' ${A}x',
        "echo one > f; echo two >> f; cat f | tee g; cat f g | wc -w | tr -d ' '",
        "cd a 2> /dev/null || mkdir a; cd a; pwd | grep -o '[a-z]*$'; cd ..; ls nothing 2> /dev/null",
        "test -f people.txt && echo yes; [ -d people.txt ] || echo no; [ a = b ] || echo differ",
        "seq 3; seq 2 2 6; seq 5 -2 1 | tail -n +2",
        "cat <<'EOF' > here.txt\n$A is 'kept'\nEOF\ncat here.txt",
        "echo a; # a comment\necho b | grep -v a | grep -i B",
        "rm -rf nothing people.txt; ls people.txt 2>&1 | grep -c people",
    ],
)
async def test_the_small_shell_agrees_with_sh(
    local_pool: SandboxPool, tmp_path: Path, command: str
) -> None:
    """Dash runs the same commands outside; outputs are compared, exit codes left out."""
    printed = await asyncio.to_thread(by_sh, command, tmp_path)
    async with opened(local_pool) as (shell, box):
        await box.run(f"open('people.txt', 'w').write({PEOPLE!r})", timeout_s=5)
        said = await ran(shell, command)
        said = "\n".join(line for line in said.split("\n") if not line.startswith("[exit code"))
        assert said.splitlines() == (printed.splitlines() or ["(no output)"])


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("gcc x.c", "gcc: this sandbox starts no programs; available: [ cat cd"),
        (
            "for i in 1 2; do echo $i; done",
            "for is not available here: no process can be started\n[exit",
        ),
        ("echo a; exit 3; echo b", "a\n[exit code 3]"),
        ("exit", "(no output)"),
        ("echo $(ls)", "$(...) is not available here"),
        ("echo `ls`", "` is not available here"),
        ("sleep 5 &", "& is not available here"),
        ("cat nothing", "cat: nothing: No such file or directory\n[exit code 1]"),
        ("echo 'open", "a ' is not closed"),
        ("grep -P x y", "grep: -P is not available; known: -i"),
        ("grep '(' people.txt", "unterminated subpattern"),
        ("echo >", "needs a file"),
        ("sed p", "only s/a/b/g"),
        ("head -n x", "'x' is no number"),
        ("seq 1 999999999", "at most 100000"),
        ("rm a/..", "[exit code 1]"),
        ("cd /nowhere", "No such file or directory"),
        ("exec false", "starts no programs"),
    ],
)
async def test_refusals_and_failures_say_why(
    local_pool: SandboxPool, command: str, told: str
) -> None:
    async with opened(local_pool) as (shell, _):
        assert told in await ran(shell, command)


async def test_folder_variables_and_files_last_and_python_shares_them(
    local_pool: SandboxPool,
) -> None:
    async with opened(local_pool) as (shell, box):
        assert await ran(shell, "mkdir w; cd w; X=7; echo hi > f") == "(no output)"
        assert await ran(shell, "pwd | grep -o 'w$'; echo $X; cat f") == "w\n7\nhi"

        async def lease() -> Sandbox:
            return box

        python = PythonTool()
        await python.open(Context(lease_sandbox=lease))
        assert (await python(code="open('w/f').read()")).content == "'hi\\n'"
        program = "cat <<EOF > p.py\nimport sys\nprint(sys.argv[1] * 2)\nsys.exit(3)\nEOF\npython3 p.py ab"
        assert await ran(shell, program) == "abab\n[exit code 3]"
        assert "ZeroDivisionError" in await ran(shell, "python -c '1/0'")
        assert await ran(shell, "echo 'print(5)' | python") == "5"

        assert isinstance(box, Forkable)
        (branch,) = await box.fork(1)

        async def other() -> Sandbox:
            return branch

        (copy,) = await shell.fork(1)
        await copy.open(Context(lease_sandbox=other))
        assert await ran(copy, "echo changed > f; cat f; echo $X") == "changed\n7"
        assert await ran(shell, "cat f") == "hi"
        await branch.close()


async def test_hostile_commands_end(local_pool: SandboxPool) -> None:
    async with opened(local_pool, ShellTool(timeout_s=0.5, max_chars=100)) as (shell, _):
        with pytest.raises(ToolError, match="took too long"):
            await shell(command="python -c 'while True: pass'")
        assert await ran(shell, "echo alive") == "alive"
        long = await shell(command="seq 5000")
        assert (long.truncated, len(long.content)) == (True, 103)
        with pytest.raises(ToolError, match="ended the interpreter"):
            await shell(command="python -c 'import os; os._exit(4)'")
        assert await ran(shell, "echo again") == "again"
        with pytest.raises(ToolError, match="no command"):
            await shell(command=" \n")
        for odd in ("\x00", "\ud800", "'" * 999, "|||", "; ; &&", "<<", "2>&1", ">" * 50, "$" * 50):
            try:
                assert isinstance(await ran(shell, odd), str)
            except ToolError:
                continue


async def test_a_clear_refusal_where_only_a_real_shell_will_do(local_pool: SandboxPool) -> None:
    async with opened(local_pool, ShellTool(small=False)) as (shell, _):
        with pytest.raises(ToolError, match="starts no processes, so there is no shell"):
            await shell(command="ls")


async def test_the_real_shell_where_processes_may_start() -> None:
    """Only commands written here run without a fence."""
    pool: SandboxPool = resolve("sandbox", "none")()
    await pool.open()
    try:
        async with opened(pool, ShellTool(small=False, timeout_s=20)) as (shell, _):
            assert (
                await ran(shell, "mkdir w; cd w; for i in 1 2; do echo $i; done > f")
                == "(no output)"
            )
            assert await ran(shell, "basename $(pwd); cat f; exit 3") == "w\n1\n2\n[exit code 3]"
            assert await ran(shell, "sleep 60 & echo left") == "left"
        async with opened(pool, ShellTool(timeout_s=0.3)) as (shell, _):
            stopped = await shell(command="echo begun; sleep 60")
            assert (stopped.content, stopped.error) == ("begun\n[stopped after 0.3 s]", "timeout")
    finally:
        await pool.close()


async def test_kit(local_pool: SandboxPool) -> None:
    good = {"command": "echo hi"}
    assert not failures(await check_tool(ShellTool, arguments=good, pool=local_pool))
    assert not failures(await check_tool(ShellTool))


async def test_the_real_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The far side alone, in this process: what sandboxes that allow processes run."""
    monkeypatch.setattr(inside_shell, "_folder", str(tmp_path))

    async def real(command: str, seconds: float = 20.0) -> dict[str, object]:
        return json.loads(await asyncio.to_thread(inside_shell.run, command, seconds))

    assert await real("mkdir w && cd w && echo $((6 * 7))") == {
        "output": "42\n", "code": 0, "timeout": False,
    }  # fmt: skip
    assert (await real("basename $(pwd); exit 3")) == {"output": "w\n", "code": 3, "timeout": False}
    assert (await real("ls nothing"))["code"] == 2
    stopped = await real("echo begun; sleep 60", 0.3)
    assert (stopped["output"], stopped["timeout"]) == ("begun\n", True)
    assert (await real("\x00"))["code"] == 2
    flood = str((await real("yes | head -c 200000"))["output"])
    assert len(flood) < 21_000
