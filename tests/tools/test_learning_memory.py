"""ATLAS's lessons: the numbers of its specification, persistence, and several writers at once."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.context import Context
from agentrl.errors import ToolError, UserError, WorldFault
from agentrl.testing import check_tool
from agentrl.testing.result import failures
from agentrl.tool import call_tool
from agentrl.types import JsonValue, Message, ToolCall, ToolResult
from agentrl_tools.memory import LearningMemory, LearningMemoryTool, Lesson
from agentrl_tools.memory import lessons as lessons_module
from agentrl_tools.memory.distil import Playbook, playbook, prompted, verdict


def never() -> float:
    raise AssertionError("the arbiter was asked")


def test_judges_who_agree_need_no_arbiter() -> None:
    ruled = verdict([0.8, 0.8, 0.8], never)
    assert (ruled.reward, ruled.arbitrated, ruled.success) == (pytest.approx(0.8), False, True)


def test_judges_who_disagree_are_overruled() -> None:
    """[.1, .9, .5] spread by sqrt((.16 + .16 + 0) / 3) = .327 > .2."""
    ruled = verdict([0.1, 0.9, 0.5], lambda: 0.3, spread=0.2)
    assert (ruled.reward, ruled.arbitrated, ruled.success) == (0.3, True, False)
    assert not verdict([0.1, 0.9, 0.5], never, spread=0.33).arbitrated


def test_success_begins_at_four_tenths() -> None:
    assert [verdict([score], never).success for score in (0.39, 0.4)] == [False, True]
    with pytest.raises(UserError, match="at least one judge"):
        verdict([], never)


def test_a_playbook_is_named_by_its_text() -> None:
    """`printf '%s' '- check units' | sha256sum`"""
    made = playbook(["check units"])
    assert made.hash == playbook(["check units"]).hash == Playbook("- check units").hash
    assert made.hash == "46b1634641b7d3b7b5fd74ee28b3c6e34b8fbd0d49685be56c9d888cf7fb41f9"
    assert made.hash != playbook(["check unit"]).hash


def test_a_baseline_reads_its_prompt_byte_for_byte() -> None:
    messages = (Message("system", "s"), Message("user", "q"))
    book = playbook(["be brief"])
    assert prompted(messages, book, apply_to_prompts=False) is messages
    assert prompted(messages, playbook([]), apply_to_prompts=True) is messages
    told = "Lessons of earlier tasks:\n- be brief"
    assert prompted(messages, book, apply_to_prompts=True) == (
        Message("system", f"s\n\n{told}"),
        messages[1],
    )
    assert prompted(messages[1:], book, apply_to_prompts=True) == (
        Message("system", told),
        messages[1],
    )


@pytest.fixture
def memory(tmp_path: Path) -> LearningMemory:
    return LearningMemory(tmp_path / "deep" / "lessons.sqlite", update_enabled=True)


def test_a_lesson_outlives_its_writer(memory: LearningMemory) -> None:
    kept = memory.record(Lesson("units", "Convert  units first.", "Watch units", 0.5, {"n": 1}))
    again = LearningMemory(memory.path)
    assert again.search("how to convert units?", k=3) == [kept]
    assert (kept.success, kept.metadata, kept.hash) == (
        True,
        {"n": 1},
        playbook(["Convert  units first."]).hash,
    )
    assert again.playbook("units").text == "- Convert  units first."


def test_only_the_newest_is_found_and_ten_are_kept(memory: LearningMemory) -> None:
    for i in range(13):
        memory.record(Lesson("loops", f"principle number{i}"))
    assert [lesson.student[-2:] for lesson in memory.history("loops")] == [
        *("r3", "r4", "r5", "r6", "r7", "r8", "r9"),
        *("10", "11", "12"),
    ]
    assert [lesson.student for lesson in memory.search("principle", k=9)] == ["principle number12"]
    assert memory.search("number11", k=9) == []


def test_the_same_lesson_again_changes_nothing(memory: LearningMemory) -> None:
    for _ in range(3):
        memory.record(Lesson("loops", "count down"))
    assert len(memory.history("loops")) == 1


def test_lessons_are_ranked_by_shared_words(memory: LearningMemory) -> None:
    memory.record(Lesson("a", "sort before searching"))
    memory.record(Lesson("b", "search twice, sort once, search again"))
    memory.record(Lesson("c", "drink water"))
    assert [found.key for found in memory.search("sort OR searching", k=5)] == ["a", "b"]
    assert [found.key for found in memory.search("water", k=0)] == []


def test_read_only_writes_nothing_not_even_a_file(tmp_path: Path) -> None:
    memory = LearningMemory(tmp_path / "lessons.sqlite")
    assert memory.search("x", k=1) == memory.history("x") == []
    with pytest.raises(ToolError, match="read-only"):
        memory.record(Lesson("k", "s"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("", "x", "key has 1 to 200"),
        ("k" * 201, "x", "key has 1 to 200"),
        ("k", " \n ", "no lesson"),
        ("k", "x" * 1201, "principle, not what happened"),
    ],
)
def test_transcripts_are_refused(memory: LearningMemory, key: str, text: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        memory.record(Lesson(key, text))


def test_hostile_text_is_text(memory: LearningMemory) -> None:
    kept = memory.record(Lesson("'; DROP TABLE lessons; --", 'x" OR words MATCH \ud800\x00 "y'))
    assert memory.search('"; DROP words MATCH', k=2) == [kept]


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are no lessons, only some text that is long enough " * 50)
    with pytest.raises(UserError, match="no learning memory"):
        LearningMemory(path).search("x", k=1)


def test_a_file_that_stays_locked_is_the_worlds_fault(
    memory: LearningMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.record(Lesson("k", "one"))
    monkeypatch.setattr(lessons_module, "BUSY_S", 0.05)
    holder = sqlite3.connect(memory.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(WorldFault, match="locked"):
        memory.record(Lesson("k", "two"))
    holder.close()
    assert [lesson.student for lesson in memory.history("k")] == ["one"]


WRITER = """
import sys
from agentrl_tools.memory import LearningMemory, Lesson
memory = LearningMemory(sys.argv[1], update_enabled=True, history_limit=1000)
for i in range(20):
    memory.record(Lesson("shared", f"writer {sys.argv[2]} says {i}"))
"""


def test_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lessons.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(i)]) for i in range(3)
    ]
    assert [writer.wait(timeout=100) for writer in writers] == [0, 0, 0]
    said = [lesson.student for lesson in LearningMemory(path).history("shared")]
    assert sorted(said) == sorted(f"writer {w} says {i}" for w in range(3) for i in range(20))
    for w in range(3):
        own = [text for text in said if text.startswith(f"writer {w}")]
        assert own == [f"writer {w} says {i}" for i in range(20)]


async def called(tool: LearningMemoryTool, **arguments: JsonValue) -> ToolResult:
    call = ToolCall("c", "learning_memory", arguments)
    return await call_tool({"learning_memory": tool}, call, Context())


async def test_the_tool_keeps_the_contract(tmp_path: Path) -> None:
    path = str(tmp_path / "lessons.sqlite")
    for enabled in (False, True):
        tool = LearningMemoryTool(path=path, update_enabled=enabled)
        good = {"operation": "recall", "text": "x"}
        assert failures(await check_tool(tool, arguments=good)) == []


async def test_episodes_learn_from_each_other_only_where_allowed(tmp_path: Path) -> None:
    path = str(tmp_path / "lessons.sqlite")
    writer = LearningMemoryTool(path=path, update_enabled=True)
    reader = LearningMemoryTool(path=path)
    assert (
        await called(reader, operation="recall", text="units")
    ).content == "No lesson about that."
    async with asyncio.TaskGroup() as group:
        for i in range(8):
            group.create_task(called(writer, operation="learn", key=f"k{i}", text=f"units {i}"))
    found = await called(reader, operation="recall", text="units")
    assert found.content.splitlines()[0].startswith("k")
    assert len(found.content.splitlines()) == 5
    refused = await called(reader, operation="learn", text="x")
    assert (refused.error, "read-only" in refused.content) == ("execution", True)
    assert (await called(writer, operation="learn", text="x")).error == "execution"
    assert (await called(writer, operation="burn", text="x")).content.endswith(
        "use recall or learn."
    )
