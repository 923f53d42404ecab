"""LoCoMo's layout, on a hand-written miniature of it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import Action
from agentrl.errors import UserError
from agentrl.testing import check_env
from agentrl.testing.result import failures
from agentrl_envs.memory_qa import MemoryQA
from agentrl_envs.memory_qa.locomo import locomo_tasks


def sample(name: str, *, observed: bool = True) -> dict[str, Any]:
    """Two sessions of two speakers; the third key is a date without a session, as in the release."""
    return {
        "sample_id": name,
        "conversation": {
            "speaker_a": "Mira",
            "speaker_b": "Toven",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Mira", "dia_id": "D1:1", "text": "I adopted a cat."},
                {
                    "speaker": "Toven",
                    "dia_id": "D1:2",
                    "text": "Look!",
                    "img_url": ["x"],
                    "blip_caption": "a photo of a dog",
                    "query": "dog",
                },
            ],
            "session_10_date_time": "10:37 am on 27 June, 2023",
            "session_10": [{"speaker": "Mira", "dia_id": "D10:1", "text": "Now I have two cats."}],
            "session_11_date_time": "9:00 am on 1 July, 2023",
        },
        "qa": [
            {
                "question": "How many cats?",
                "answer": 2,
                "evidence": ["D1:1", "D10:1"],
                "category": 1,
            },
            {"question": "When?", "answer": "8 May 2023", "evidence": ["D1:1"], "category": 2},
            {"question": "What?", "adversarial_answer": "no", "evidence": ["D1:2"], "category": 5},
            {"question": "Who?", "answer": "Toven", "evidence": [], "category": 4},
        ],
        "observation": {
            "session_1_observation": {
                "Mira": [["Mira adopted a cat.", "D1:1"]],
                "Toven": [["Toven showed a dog.", "D1:2"]],
            },
            "session_10_observation": {"Mira": [["Mira has two cats.", ["D10:1"]]], "Toven": []},
        }
        if observed
        else {},
        "event_summary": {},
        "session_summary": {},
    }


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "locomo10.json"
    file.write_text(
        json.dumps([sample("conv-1"), sample("conv-2"), sample("conv-3", observed=False)])
    )
    return str(file)


def test_questions_without_the_adversarial_ones(path: str) -> None:
    tasks = locomo_tasks(path, "train")
    assert [(t.id, t.question, t.answer, t.metadata["family"]) for t in tasks] == [
        ("locomo/conv-1/0", "How many cats?", "2", "multi_hop"),
        ("locomo/conv-1/1", "When?", "8 May 2023", "temporal"),
        ("locomo/conv-1/3", "Who?", "Toven", "single_hop"),
    ]
    linked = [t.metadata["dialogue"]["linked"] for t in tasks]  # pyright: ignore
    assert linked == [1, 0, 1]


def test_a_conversation_belongs_to_one_split(path: str) -> None:
    splits = {split: {t.id.split("/")[1] for t in locomo_tasks(path, split)}
              for split in ("train", "validation", "test")}  # fmt: skip
    assert splits == {"train": {"conv-1"}, "validation": {"conv-2"}, "test": {"conv-3"}}
    env = MemoryQA(locomo=path)
    assert [t.id for t in islice(env.tasks("validation", seed=0), 4)] == [
        "locomo/conv-2/0",
        "locomo/conv-2/1",
        "locomo/conv-2/3",
        "locomo/conv-2/0",
    ]


async def test_each_session_is_read_with_its_date_and_captions(path: str) -> None:
    env = MemoryQA(locomo=path)
    task = next(iter(env.tasks("train", seed=0)))
    (first,) = await env.reset(task, seed=0)
    assert first.content.endswith(
        "Session (1:56 pm on 8 May, 2023):\nMira: I adopted a cat.\n"
        "Toven: Look! [shows a photo of a dog]"
    )
    two = await env.step(Action('[{"event": "ADD", "text": "Mira has a cat"}]'))
    assert "1 Mira has a cat" in two.observation[0].content
    assert "(10:37 am on 27 June, 2023):\nMira: Now I have two cats." in two.observation[0].content
    ask = await env.step(Action('[{"event": "UPDATE", "id": "1", "text": "Mira has two cats"}]'))
    assert ask.info.context == "answer"
    assert ask.observation[0].content.endswith(
        "Memories:\n1 Mira has two cats\n\nQuestion: How many cats?"
    )
    assert (await env.step(Action("**Answer:** 2"))).reward == 1.0
    await env.close()


async def test_the_bank_of_an_unmanaged_session_is_its_observations(path: str) -> None:
    env = MemoryQA(locomo=path, manages="linked", answerer="frozen")
    task = next(iter(env.tasks("train", seed=0)))
    (first,) = await env.reset(task, seed=0)
    assert [entry.text for entry in env.memories] == [
        "Mira adopted a cat. (1:56 pm on 8 May, 2023)",
        "Toven showed a dog. (1:56 pm on 8 May, 2023)",
    ]
    assert "Now I have two cats." in first.content
    await env.close()


async def test_without_observations_the_lines_are_remembered(path: str) -> None:
    env = MemoryQA(locomo=path, manager="exact")
    task = next(iter(env.tasks("test", seed=0)))
    await env.reset(task, seed=0)
    assert [entry.text[:24] for entry in env.memories] == [
        "Mira: I adopted a cat. (",
        "Toven: Look! [shows a ph",
        "Mira: Now I have two cat",
    ]
    await env.close()


async def test_no_rule_answers_a_question_from_a_file(path: str) -> None:
    env = MemoryQA(locomo=path, answerer="exact")
    task = next(iter(env.tasks("train", seed=0)))
    with pytest.raises(UserError, match=r"env\.answerer=policy"):
        await env.reset(task, seed=0)
    with pytest.raises(UserError, match="generated tasks only"):
        env.expert(task, seed=0)
    bad = failures(
        await check_env(lambda: MemoryQA(locomo=path), tasks=locomo_tasks(path, "train"))
    )
    assert [b.name for b in bad if "xpert" not in b.name] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not JSON"),
        ("{}", "not a list of conversations"),
        ('[{"qa": []}]', "there is no 'conversation'"),
        ('[{"conversation": {}, "qa": []}]', "no session_1"),
        ('[{"conversation": 3, "qa": []}]', "not laid out as locomo10.json"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(UserError, match=told):
        locomo_tasks(str(file), "train")


def test_a_missing_file_and_a_missing_split_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        locomo_tasks(str(tmp_path / "none.json"), "train")
    file = tmp_path / "one.json"
    file.write_text(json.dumps([sample("conv-1")]))
    with pytest.raises(UserError, match="1 conversations and no question for the split 'test'"):
        locomo_tasks(str(file), "test")
