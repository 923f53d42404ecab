"""Published question files through the command: corpus file, retriever by name, scripted searcher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.cli.main import run
from agentrl.data.tasks import load_tasks
from agentrl.errors import UserError
from agentrl.retrieval import Passage
from agentrl.trajectory_json import from_line
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.search_qa.script import QuestionSearch, held, twin_passages

HOTPOT = Path(__file__).parents[3].parent / "shared" / "data" / "hotpotqa.jsonl"


class Letters:
    """Text as code points."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: object) -> str:
        return "".join(chr(i) for i in ids)  # type: ignore[attr-defined]


def test_gold_is_known_when_it_stands_there_as_words() -> None:
    assert held("It was the U.S.A., he said.", ["Peru", "USA"]) == "USA"
    assert held("He knows nothing.", ["no"]) is None
    assert held("an answer", ["the"]) is None


def test_pages_tell_a_share_of_the_answers() -> None:
    """Of ten pages eight tell; `A or B` holds its own answer whether told or not."""
    tasks = [Task(f"t{i}", f"Who is number {i}?", f"Nobody{i}") for i in range(9)]
    tasks.append(Task("t9", "Is A or B older?", "B"))
    passages, told = twin_passages(tasks, share=0.8, seed=1)
    plain = [p for p in passages if "It is" in p.text]
    assert len(plain) == 8
    assert told == {p.id for p in plain} | {"t9"}
    assert passages[0] in (
        Passage("t0", "Note 0", "Who is number 0: It is Nobody0."),
        Passage("t0", "Note 0", "Who is number 0: Nobody has found out."),
    )


def test_the_question_that_stands_first_is_the_rows_own() -> None:
    """A passage may quote another question, even a longer one."""
    tasks = [Task("a", "Who?", "Ada"), Task("b", "Who was the longest?", "Bob")]
    script = QuestionSearch(tasks, Letters())  # type: ignore[arg-type]

    def reply(text: str) -> str:
        return script(ids_array([ord(c) for c in text]), None, 0)  # type: ignore[arg-type]

    assert reply("Question: Who?") == "<search> Who? </search>"
    found = "Question: Who? <information>Who was the longest? Ada or Bob</information>"
    assert reply(found) == "<answer> Ada </answer>"
    nothing = "Question: Who was the longest? <information>Eve</information>"
    assert reply(nothing) == "<answer> unknown </answer>"
    with pytest.raises(ValueError, match="none of the script's questions"):
        reply("Question: When?")


def test_fifty_of_hotpotqa_are_right_where_the_corpus_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One search each, through `agentrl eval`: right iff a page that was found names the answer.

    So are the 44 whose own page does, and one whose answer another page happens to name.
    """
    if not HOTPOT.exists():
        pytest.skip("needs ../shared/data/hotpotqa.jsonl")
    tasks = load_tasks(str(HOTPOT))
    passages, told = twin_passages(tasks)
    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "run"
    rows = ({"id": p.id, "title": p.title, "text": p.text} for p in passages)
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"""eval env=search_qa model=nano env.style=plain env.max_tokens=8192
        env.turn_tokens=2048 env.observation_tokens=4096 env.retriever.name=fts5
        env.retriever.corpus={corpus} data.path={HOTPOT} data.limit=50 eval.tasks=50
        engine=scripted engine.script=question_search dir={folder} --json"""
    assert run(words.split()) == 0
    played = [from_line(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    assert len(played) == 50
    right = {t.task.id for t in played if t.correct}
    told &= {t.task.id for t in played}
    assert (len(told), len(right - told)) == (44, 1)
    assert told <= right
    golds = {t.task.id: t.task.metadata["answers"] for t in played}
    assert {t.task.id for t in played if held(t.calls[0].content, golds[t.task.id])} == right  # type: ignore[arg-type]
    assert {t.n_calls for t in played} == {1}
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["accuracy"] == 45 / 50


def test_a_wrong_retriever_is_a_sentence(tmp_path: Path) -> None:
    from agentrl_envs.search_qa.env import SearchQA

    with pytest.raises(UserError, match=r"env\.retriever needs a name"):
        SearchQA(retriever={"corpus": "x.jsonl"})
