"""`agentrl run` with piped input: players, what is shown of the row, undo, save and reopen, mistakes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from agentrl.cli.main import run
from agentrl.trajectory_json import from_line
from agentrl.transcript import Origin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")
MATH = "env=retool_math"
ADD = "<code>x = 40 + 2; print(x)</code>"


class Played:
    """Runs the command on lines of input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *argv: str, lines: str = "", code: int = 0) -> tuple[str, str]:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        assert run(["run", *argv]) == code
        told = self._capsys.readouterr()
        return told.out, told.err


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Played:
    return Played(monkeypatch, capsys)


def test_the_shipped_model_plays_a_whole_task(played: Played):
    out, told = played(MATH, "--json")
    trajectory = from_line(out)
    assert "ended: terminated" in told
    assert trajectory.rows[0].mask.sum() == sum(
        len(s) for s in trajectory.rows[0].segments if s.origin is Origin.MODEL
    )
    assert f"mask 1 on {int(trajectory.rows[0].mask.sum())}" in told


def test_a_person_sees_the_row_the_mask_and_the_reward(played: Played):
    out, _ = played(MATH, "player=me", lines=f"{ADD}\n/ids\n<answer>7add</answer>\n")
    # the first test task of seed 0 is `hex 31453?`, and 31453 is 0x7add
    assert "<|user|>hex 31453?<|end|><|assistant|>" in out
    assert "42" in out.split("isolation", 1)[1]
    assert "PROMPT      mask 0 [258, " in out
    assert f"[[{ADD}]]<interpreter>42</interpreter>[[<answer>7add</answer><|end|>]]" in out
    assert "env          +1.000" in out


def test_the_expert_is_right_and_chance_is_not(played: Played):
    out, _ = played(MATH, "player=expert", "-n", "3")
    assert out.count("env          +1.000") == 3
    out, _ = played(MATH, "player=random", "-n", "3")
    assert out.count("env          +0.000") == 3


def test_a_turn_is_taken_back_with_what_it_did(played: Played):
    lines = f"{ADD}\n/undo\n<code>x = 5</code>\n<code>print(x)</code>\n<answer>1</answer>\n"
    out, _ = played(MATH, "player=me", "--json", lines=lines)
    played_row = from_line(out)
    assert [call.content.strip() for call in played_row.calls][-1] == "5"
    assert len(played_row.calls) == 2


def test_what_was_saved_goes_on_with_the_same_tokens_and_state(played: Played, tmp_path: Path):
    kept = tmp_path / "kept.json"
    first, _ = played(MATH, "player=me", "--json", lines=f"{ADD}\n/save {kept}\n")
    out, _ = played("--open", str(kept), "--json", lines="<code>print(x + 1)</code>\n")
    before, after = from_line(first), from_line(out)
    n = len(before.rows[0])
    assert after.rows[0].token_ids[:n].tolist() == before.rows[0].token_ids.tolist()
    assert [call.content.strip() for call in after.calls] == ["42", "43"]
    data = json.loads(kept.read_text())
    kept.write_text(json.dumps({**data, "results": ["41"]}))
    out, _ = played("--open", str(kept))
    assert "the tools answered otherwise than before" in out


def test_a_conversation_calls_tools_asks_before_and_goes_on(played: Played):
    call = '<tool_call>{"name": "python", "arguments": {"code": "print(6 * 7)"}}</tool_call>'
    lines = f"hello\n{call}\nn\n{call}\ny\nit is 42\nthanks\n"
    out, _ = played("tools=python", "player=me", "--approve", "--json", lines=lines)
    talked = from_line(out)
    assert [c.content.strip() for c in talked.calls] == ["The user declined this call.", "42"]
    assert [m.content for m in talked.messages if m.role == "user"] == ["hello", "thanks"]


def test_what_was_declined_may_run_once_it_was_taken_back(played: Played):
    lines = f"{ADD}\nn\n/undo\n{ADD}\ny\n"
    out, _ = played(MATH, "player=me", "--approve", "--json", lines=lines)
    assert [call.content.strip() for call in from_line(out).calls] == ["42"]


def test_what_was_declined_in_one_task_is_asked_anew_in_the_next(played: Played):
    out, _ = played(
        MATH, "player=expert", "--approve", "--json", "-n", "3", lines="n\n" + "y\n" * 9
    )
    told = [call.content for line in out.splitlines() for call in from_line(line).calls]
    assert told[0] == "The user declined this call."
    assert told[1:]
    assert "The user declined this call." not in told[1:]


def test_an_exchange_is_taken_back(played: Played):
    lines = "one\nfirst answer\ntwo\nsecond answer\n/undo\nthree\nthird answer\n"
    out, _ = played("tools=calculator", "player=me", "--json", lines=lines)
    said = [(m.role, m.content) for m in from_line(out).messages if m.role != "system"]
    assert said == [
        ("user", "one"), ("assistant", "first answer"),
        ("user", "three"), ("assistant", "third answer"),
    ]  # fmt: skip


def test_text_of_several_lines(played: Played):
    lines = '"""\n<code>\nfor i in range(2):\n    print(i)\n</code>\n"""\n'
    out, _ = played(MATH, "player=me", "--json", lines=lines)
    assert from_line(out).calls[0].content.split() == ["0", "1"]


def test_a_model_cannot_colour_the_terminal(played: Played):
    out, _ = played(MATH, "player=me", lines="<code>print('\\x1b[31mred')</code>\n")
    assert "\x1b[31m" not in out
    assert "\\x1b[31mred" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((MATH, "player=nobody"), "is not one of policy, me, expert, random"),
        ((MATH, "tools=python"), "not both"),
        (("tools=pyton",), "did you mean 'python'?"),
        (("tools=[{]",), "is not a list"),
        ((MATH, "-n", "0"), "-n is at least 1"),
        (("--open", "nowhere.json"), "/save FILE writes one"),
    ],
)
def test_mistakes_get_one_sentence(played: Played, argv: tuple[str, ...], message: str):
    _, told = played(*argv, code=2)
    assert message in told
    assert len(told.splitlines()) == 1


def test_what_the_world_fails_is_told_and_ends_with_4(played: Played):
    nowhere = ("engine=api", "engine.base_url=http://127.0.0.1:1/v1", "engine.model_id=x")
    out, _ = played(MATH, *nowhere, "engine.retries=0", code=4)
    assert "ended: error" in out
    assert "http://127.0.0.1:1/v1" in out


def test_a_file_that_is_no_conversation_is_refused(played: Played, tmp_path: Path):
    other = tmp_path / "other.json"
    other.write_text('{"schema_version": 9}')
    _, told = played("--open", str(other), code=2)
    assert "schema_version 9" in told
    other.write_text("[]")
    _, told = played("--open", str(other), code=2)
    assert "is not a saved conversation" in told
