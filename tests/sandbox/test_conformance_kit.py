"""The kit itself: what it makes of a box that holds, leaks, leaks no more, or breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import click
import pytest

from agentrl.cli.check import _line, _sum
from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, SandboxLimits
from agentrl.testing import FakePool
from agentrl.testing.sandbox_cases import (
    CASES,
    Case,
    CaseResult,
    Cell,
    Leak,
    Seen,
    Step,
    run_case,
    run_cases,
)
from agentrl.testing.sandbox_cases.stage import PLANTED, Stage, planted_secret
from agentrl.testing.sandbox_cases.verdicts import (
    ends,
    fewer_than,
    gives,
    refused,
    secret_kept,
    untouched,
)
from agentrl.testing.sandbox_kit import as_check, pool_checks

LITE = Cell("local", "lite", "root")
LIMITS = SandboxLimits()
LEAK = Leak("a reason", ("local",), ("lite",), ("root",))


def pool(answer: ExecResult | SandboxError) -> FakePool:
    """Runs the prelude and `6 * 7` well and gives `answer` to everything else."""

    def script(code: str) -> ExecResult | SandboxError:
        if code == "6 * 7":
            return ExecResult("ok", value="42")
        return ExecResult("ok") if "def attempt" in code else answer

    return FakePool(script)


def case(**changes: object) -> Case:
    return replace(Case("gives two", "", "1 + 1", gives("2")), **changes)  # type: ignore[arg-type]


async def outcome(answer: ExecResult | SandboxError, **changes: object) -> tuple[str, str]:
    cell = changes.pop("cell", LITE)
    assert isinstance(cell, Cell)
    result = await run_case(pool(answer), case(**changes), cell, LIMITS)
    return result.outcome, result.detail


async def test_a_case_holds_or_fails():
    assert await outcome(ExecResult("ok", value="2")) == ("held", "")
    told = "ok, '3', not '2' (None)"
    assert await outcome(ExecResult("ok", value="3")) == ("failed", told)
    broken = await outcome(SandboxError("gone"))
    assert broken == ("failed", "the box itself failed: gone")


async def test_a_known_leak_must_leak_where_it_is_known_and_nowhere_else():
    bad, good = ExecResult("ok", value="3"), ExecResult("ok", value="2")
    assert await outcome(bad, known=(LEAK,)) == ("known leak", "a reason")
    assert (await outcome(good, known=(LEAK,)))[0] == "leaks no more"
    raced = (replace(LEAK, certain=False),)
    assert [(await outcome(r, known=raced))[0] for r in (bad, good)] == ["known leak"] * 2
    elsewhere = [
        replace(LITE, level="standard"), replace(LITE, user="ordinary"),
        replace(LITE, backend="other"),
    ]  # fmt: skip
    for cell in elsewhere:
        assert (await outcome(bad, known=(LEAK,), cell=cell))[0] == "failed"
        assert (await outcome(good, known=(LEAK,), cell=cell))[0] == "held"


async def test_without_isolation_only_harmless_cases_run():
    nowhere = replace(LITE, level="none")
    assert (await outcome(ExecResult("error"), cell=nowhere))[0] == "skipped"
    harmless = await outcome(ExecResult("error"), cell=nowhere, danger="harmless")
    assert harmless[0] == "failed"


async def test_a_box_that_is_ruined_afterwards_fails():
    ruined = FakePool(lambda code: ExecResult("ok", value="2"))
    result = await run_case(ruined, case(), LITE, LIMITS)
    assert (result.outcome, result.detail) == (
        "failed", "afterwards 6 * 7 gave ok, '2': None",
    )  # fmt: skip


async def test_steps_share_sessions_by_name_and_reset_on_demand():
    one = pool(ExecResult("ok", value="2"))
    steps = (Step("a"), Step("b", who="two"), Step("c", reset=True), Step("d"))
    assert (await run_case(one, case(code=steps), LITE, LIMITS)).outcome == "held"
    ran = [[c for c in box.ran if len(c) == 1] for box in one.sandboxes]
    assert ran == [["a", "c", "d"], ["b"]]
    assert [(box.resets, box.closed) for box in one.sandboxes] == [(1, True), (0, True)]


async def test_results_come_in_order_and_bombs_one_at_a_time():
    cases = [case(name=str(n), danger=danger) for n, danger in enumerate(["memory", "escape"] * 3)]
    heard: list[str] = []
    results = await run_cases(
        pool(ExecResult("ok", value="2")), cases, LITE, LIMITS,
        told=lambda result: heard.append(result.case.name),
    )  # fmt: skip
    assert [r.case.name for r in results] == list("012345")
    assert sorted(heard) == list("012345")


def seen(stage: Stage, *results: ExecResult) -> Seen:
    return Seen(results, (0.1,) * len(results), 0.1, stage, LIMITS)


def test_verdicts_by_hand():
    with Stage() as stage:
        ok = seen(stage, ExecResult("ok", stdout="300\n", value="{'a': 'EPERM', 'b': 'done'}"))
        assert ends("ok", "error")(ok) == ""
        assert ends("timeout")(ok) == "status ok, not timeout ('300\\n')"
        assert refused(ok) == "allowed: b"
        assert fewer_than(301)(ok) == ""
        assert fewer_than(300)(ok) == "300 were allowed"
        assert secret_kept(ok) == ""
        leaked = seen(stage, ExecResult("ok"), ExecResult("error", error=f"<{stage.secret}>"))
        assert secret_kept(leaked) == "a secret came out"
        with pytest.raises(AssertionError, match="no outcomes but error"):
            refused(leaked)


def test_a_stage_sees_what_was_done_to_it(monkeypatch: pytest.MonkeyPatch):
    with Stage(("victim", "sockets")) as stage:
        watched = seen(stage, ExecResult("ok"))
        assert (untouched(watched), stage.reached(), stage.harm()) == ("", [], "")
        told = stage.told(1, 1, 1)
        assert stage.secret not in str(told)
        os.utime(str(told["CANARY"]), (0, 0))
        os.mkdir(stage.folder / "new")
        assert stage.changes()[0].startswith("the folder holds ['canary', 'log', 'new'")
        assert stage.changes()[1:] == ["a file outside was changed"]
        connect = (
            f"import socket; socket.socket(socket.AF_UNIX).connect({str(stage.folder / 'unix')!r})"
        )
        subprocess.run([sys.executable, "-c", connect], check=True)
        assert stage.reached() == ["unix"]
        victim = told["VICTIM"]
        assert isinstance(victim, int)
        os.setpriority(os.PRIO_PROCESS, victim, 19)
        assert "a foreign process went from" in stage.harm()
        os.kill(victim, 9)
        stage._victim.wait()  # type: ignore[union-attr]
        assert stage.harm() == "it ended a foreign process (-9)"
        left = subprocess.Popen(["sleep", "60"], env={"MARK": stage.mark})
        monkeypatch.setattr("agentrl.testing.sandbox_cases.stage.GONE_S", 0.1)
        found = stage.processes()
        assert found == [left.pid]
    assert left.wait(10) == -9
    assert not stage.folder.exists()


def test_a_secret_is_planted_and_taken_away():
    with planted_secret() as secret:
        assert os.environ[PLANTED] == secret
        with Stage() as stage:
            assert secret in stage.secrets
    assert PLANTED not in os.environ


def test_the_report_tells_leaks_and_skips_apart():
    results = [
        as_check(CaseResult(case(name=outcome), outcome, "why"))
        for outcome in ("held", "failed", "known leak", "leaks no more", "skipped")
    ]
    assert [(r.name, r.ok, r.kind) for r in results] == [
        ("held", True, "check"), ("failed", False, "check"), ("known leak", True, "known leak"),
        ("leaks no more", False, "check"), ("skipped", True, "skipped"),
    ]  # fmt: skip
    lines = [click.unstyle(_line(result)) for result in results]
    assert [line.split()[0] for line in lines] == ["ok", "FAIL", "leak", "FAIL", "skip"]
    assert lines[2] == "leak  known leak  (why)"
    assert _sum(results) == "1 of 5 checks hold, 1 known leak, 1 skipped"


async def test_pools_promise_what_their_sessions_offer():
    """A fake that neither forks nor interrupts: both are told as not offered."""
    found = {
        check.name: await check.body()
        for check in pool_checks(FakePool(lambda _: ""))
        if check.name.startswith(("copies", "code can"))
    }
    assert list(found.values()) == ["not offered", "not offered"]


def test_every_row_of_the_hostile_suite_has_a_case():
    """Rows are those of the threat table, 1 to 37; cases added since have none."""
    assert {case.row for case in CASES} == {str(n) for n in range(1, 38)} | {""}
    assert len({case.name for case in CASES}) == len({case.id for case in CASES}) == len(CASES)
    assert sum(not case.row for case in CASES) >= 20
    assert all(leak.backends for case in CASES for leak in case.known)


def test_every_piece_of_code_is_meant_as_written():
    """A slip in the code of an attack would pass as an attack in vain."""
    broken = {
        case.name
        for case in CASES
        for step in case.steps
        if not _compiles(step.code)
    }  # fmt: skip
    assert broken == {
        "a syntax error is an error",
        "NUL in the source is an error",
        "a lone surrogate in the source is an error or survives",
        "brackets nested a hundred thousand deep end in an answer",
    }


def _compiles(code: str) -> bool:
    if len(code) > 1_000_000 or code.startswith("1+1+1"):
        return True
    try:
        compile(code, "case", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
