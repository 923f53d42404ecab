"""memory_qa: stories whose answers are worked out by hand, the two roles, and the demonstrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentrl.env import Action, StepResult
from agentrl.errors import UserError
from agentrl.registry import resolve
from agentrl.testing import check_env
from agentrl.testing.result import failures
from agentrl.types import Task
from agentrl_envs.memory_qa import MemoryQA
from agentrl_envs.memory_qa.facts import PLAIN, STYLES, TERSE, Fact
from agentrl_envs.memory_qa.keeper import Belief, belief, hasty, operations
from agentrl_envs.memory_qa.language import attributes_of, question_of, read_answer
from agentrl_envs.memory_qa.names import names_of
from agentrl_envs.memory_qa.retrieval import for_answer, names
from agentrl_envs.memory_qa.story import (
    KINDS,
    SPLITS,
    Event,
    Kind,
    Story,
    after,
    from_json,
    to_json,
)
from agentrl_tools.memory import Entry, MemoryBank, Operation
from agentrl_tools.memory.operations import listed

HOME, TERSE_PETS = PLAIN[0], TERSE[1]


def told(kind: Kind, attribute: str, *events: tuple[str, str]) -> Story:
    """A story about Ann, an event per session."""
    sessions: Any = tuple((Event(e, "Ann", attribute, v),) for e, v in events)  # pyright: ignore[reportArgumentType]
    return Story(kind, "Ann", attribute, ("Ann", "Bo"), sessions)


PETS = (("add", "dog"), ("add", "cat"), ("remove", "dog"), ("add", "owl"))
MOVES = (("tell", "Tar"), ("change", "Bri"), ("change", "Osk"))


@pytest.mark.parametrize(
    ("story", "answer"),
    [
        (told("single", "home", *MOVES[:1]), "Tar"),
        (told("changed", "home", *MOVES), "Osk"),
        (told("temporal", "home", *MOVES), "Bri"),
        (told("temporal", "home", *MOVES[:1]), "unknown"),
        (told("counted", "pets", *PETS[:2]), "2"),
        (told("counted", "pets", *PETS), "2"),
        (told("counted", "pets", *PETS[:1], ("remove", "dog")), "0"),
    ],
)
def test_answers_follow_from_what_was_told(story: Story, answer: str) -> None:
    assert story.answer == answer
    assert story.linked == len(story.sessions) - 1
    assert from_json(to_json(story)) == story


@pytest.mark.parametrize(
    ("event", "before", "exact"),
    [
        (("tell", "Tar"), "", "ADD Ann in Tar"),
        (("change", "Bri"), "Ann in Tar", "UPDATE 1 Ann in Bri was Tar"),
        (("change", "Osk"), "Ann in Bri was Tar", "UPDATE 1 Ann in Osk was Bri"),
        (("add", "dog"), "", "ADD Ann has dog"),
        (("add", "cat"), "Ann has dog", "UPDATE 1 Ann has dog cat"),
        (("add", "dog"), "Ann has dog", "NOOP"),
        (("remove", "dog"), "Ann has dog cat", "UPDATE 1 Ann has cat"),
        (("remove", "dog"), "Ann has dog", "DELETE 1"),
        (("remove", "dog"), "", "NOOP"),
        (("chat", "3"), "Ann in Tar", "NOOP"),
    ],
)
def test_the_exact_operation(event: tuple[str, str], before: str, exact: str) -> None:
    """Additions join by UPDATE, never by DELETE + ADD; the value before a change is kept."""
    attribute = "home" if event[0] in ("tell", "change") else "pets"
    happened: Any = Event(event[0], "Ann", "" if event[0] == "chat" else attribute, event[1])  # pyright: ignore[reportArgumentType]
    entries = [Entry(1, before)] if before else []
    asked = operations(entries, [happened], attributes_of("terse"), rng=Random(0))
    assert [operation.line for operation in asked] == [exact]


def test_what_was_told_twice_in_one_session_is_one_operation() -> None:
    events = (
        Event("add", "Ann", "pets", "dog"),
        Event("add", "Ann", "pets", "cat"),
        Event("tell", "Bo", "home", "Tar"),
    )
    asked = operations([], events, attributes_of("terse"), rng=Random(0))
    assert [operation.line for operation in asked] == ["ADD Ann has dog cat", "ADD Bo in Tar"]


def test_memories_that_contradict_are_brought_together() -> None:
    entries = [Entry(2, "Ann in Tar"), Entry(5, "Ann in Bri"), Entry(7, "Bo in Osk")]
    assert belief(entries, "Ann", TERSE[0]) == Belief(Fact(("Bri",), "Tar"), (2, 5))
    event = Event("change", "Ann", "home", "Kel")
    asked = operations(entries, [event], attributes_of("terse"), rng=Random(0))
    assert [o.line for o in asked] == ["UPDATE 5 Ann in Kel was Bri", "DELETE 2"]


def test_the_hasty_manager_misses_or_overwrites() -> None:
    dog = Fact(("dog",))
    assert hasty(Event("add", "Ann", "pets", "cat"), dog, Random(0)) == Fact(("cat",))
    assert hasty(Event("add", "Ann", "pets", "cat"), Fact(), Random(0)) == Fact()
    assert hasty(Event("tell", "Ann", "home", "Tar"), Fact(), Random(0)) == Fact()
    changed = {
        hasty(Event("change", "A", "home", "Bri"), Fact(("Tar",)), Random(i)) for i in range(9)
    }
    assert changed == {Fact(("Tar",)), Fact(("Bri",))}
    removed = {hasty(Event("remove", "A", "pets", "dog"), dog, Random(i)) for i in range(9)}
    assert removed == {dog, Fact()}


@pytest.mark.parametrize("style", list(STYLES))
def test_every_memory_reads_as_what_it_says(style: Any) -> None:
    for attribute in STYLES[style]:
        one, two, three = attribute.values[:3]
        facts = [Fact((one,)), Fact((one, two, three))] if attribute.many else []
        facts += [] if attribute.many else [Fact((one,)), Fact((one,), two)]
        for fact in facts:
            text = attribute.remembered("Mira", fact)
            assert attribute.read("Mira", text) == fact
            assert attribute.read("Bela", text) is None
            others = [other for other in STYLES[style] if other is not attribute]
            assert [other.read("Mira", text) for other in others] == [None] * len(others)


def test_words_of_another_hand_are_read_too() -> None:
    assert HOME.read("Ann", "ANN moved to quill (from Varsa)") == Fact(("Quill",), "Varsa")
    assert HOME.read("Ann", "Anna lives in Quill") is None


def test_questions_and_answers() -> None:
    story = told("temporal", "home", *MOVES)
    assert question_of(story, "terse") == "Ann was in"
    assert question_of(story, "plain") == "Where did Ann live before Osk?"
    said = {
        "1,2<answer>Tar</answer>": "Tar",
        "1 Ann in Tar\n\n**Answer:** Tar wick \n": "Tar wick",
        "Answer: a\nanswer: b": "b",
        "**Answer: Tar**": "Tar**",
        "I think Tar": None,
        "": None,
    }
    assert {text: read_answer(text) for text in said} == said


def test_splits_share_no_person_and_no_task() -> None:
    for style in STYLES:
        people = [set(names_of(split, style)) for split in SPLITS]
        assert all(len(names) >= 5 for names in people)
        assert len(set.union(*people)) == sum(map(len, people))
    env = MemoryQA()
    ids = [{task.id for task in islice(env.tasks(split, seed=0), 300)} for split in SPLITS]
    assert len(set.union(*ids)) == 152 + 300 + 300


def test_there_are_152_training_questions_by_default() -> None:
    stream = env_tasks(MemoryQA(), 400)
    assert len({task.id for task in stream}) == 152
    assert stream[152:304] == stream[:152]
    assert len({task.id for task in env_tasks(MemoryQA(train_questions=7), 50)}) == 7
    assert {str(task.metadata["family"]) for task in stream[:4]} == set(KINDS)


def env_tasks(env: MemoryQA, n: int, split: str = "train", seed: int = 0) -> list[Task]:
    return list(islice(env.tasks(split, seed=seed), n))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "terse", "sessions": 3, "facts": 2},
        {"manages": "linked", "answerer": "exact"},
        {"manages": "random", "people": 4, "sessions": 6},
        {"manager": "exact", "reward": "f1"},
    ],
)
async def test_keeps_the_contract(options: dict[str, Any]) -> None:
    made = resolve("env", "memory_qa")
    assert failures(await check_env(lambda: made(**options))) == []


async def played(env: MemoryQA, task: Task, turns: Sequence[str]) -> list[StepResult]:
    await env.reset(task, seed=task.seed)
    return [await env.step(Action(turn)) for turn in turns]


def made(story: Story, **options: Any) -> tuple[MemoryQA, Task]:
    env = MemoryQA(style="terse", sessions=len(story.sessions) + 1, **options)
    return env, Task("t", question_of(story, "terse"), story.answer, to_json(story))


async def test_an_episode_by_hand() -> None:
    env, task = made(told("counted", "pets", *PETS[:2]))
    (first,) = await env.reset(task, seed=0)
    assert first.content == "\n> Ann: got dog"
    one = await env.step(Action("ADD Ann has dog"))
    assert (one.observation[0].content, one.info.context) == (
        "1 Ann has dog\n> Ann: also got cat",
        "session 2",
    )
    two = await env.step(Action("UPDATE 1 Ann has dog cat"))
    assert (two.observation[0].content, two.info.context, two.info.by) == (
        "1 Ann has dog cat\n? Ann has",
        "answer",
        None,
    )
    end = await env.step(Action("1<answer>2</answer>"))
    assert (end.reward, end.terminated, end.info.answer) == (1.0, True, "2")
    await env.close()


async def test_deleting_and_adding_loses_the_first_pet() -> None:
    env, task = made(told("counted", "pets", *PETS[:2]), answerer="exact")
    steps = await played(env, task, ["ADD Ann has dog", "DELETE 1\nADD Ann has cat"])
    assert (steps[-1].reward, steps[-1].terminated, steps[-1].info.answer) == (0.0, True, "1")
    steps = await played(env, task, ["ADD Ann has dog", "ADD Ann has cat"])
    assert (steps[-1].reward, env.memories) == (
        1.0,
        [Entry(1, "Ann has dog"), Entry(2, "Ann has cat")],
    )
    await env.close()


@pytest.mark.parametrize("turn", ["", "I add it", "[{", "UPDATE 9 Ann in Kel", "DELETE x"])
async def test_what_cannot_be_read_is_a_counted_noop(turn: str) -> None:
    env, task = made(told("changed", "home", *MOVES[:2]), answerer="exact")
    steps = await played(env, task, ["ADD Ann in Tar", turn])
    assert (steps[-1].reward, steps[-1].info.answer, env.invalid) == (0.0, "Tar", 1)
    assert env.memories == [Entry(1, "Ann in Tar")]
    steps = await played(env, task, [turn, "ADD Ann in Bri"])
    assert (steps[-1].reward, env.invalid) == (1.0, 1)
    await env.close()


async def test_f1_pays_a_part_of_an_answer() -> None:
    """`lives in Tar` against `Tar`: precision 1/3, recall 1, F1 = 1/2."""
    story = told("single", "home", *MOVES[:1])
    for reward, worth in (("em", 0.0), ("f1", 0.5)):
        env, task = made(story, reward=reward)
        steps = await played(env, task, ["NOOP", "<answer>lives in Tar</answer>"])
        assert steps[-1].reward == worth
        await env.close()


async def test_a_partner_answers_where_it_is_named() -> None:
    env, task = made(told("single", "home", *MOVES[:1]), answerer="frozen")
    (step,) = await played(env, task, ["ADD Ann in Tar"])
    assert (step.info.context, step.info.by, env.partners) == ("answer", "frozen", ("frozen",))
    assert [MemoryQA(answerer=role).partners for role in ("policy", "exact")] == [(), ()]
    await env.close()


async def test_only_the_linked_session_is_managed() -> None:
    """The sessions before are in the bank already, the one after is kept exactly."""
    story = Story(
        "changed",
        "Ann",
        "home",
        ("Ann", "Bo"),
        (
            (Event("tell", "Ann", "home", "Tar"),),
            (Event("change", "Ann", "home", "Bri"),),
            (Event("add", "Bo", "pets", "dog"),),
        ),
    )
    env, task = made(story, manages="linked", answerer="exact")
    (first,) = await env.reset(task, seed=0)
    assert first.content == "1 Ann in Tar\n> Ann: now in Bri"
    end = await env.step(Action("UPDATE 1 Ann in Bri"))
    assert (end.reward, end.terminated) == (1.0, True)
    assert env.memories == [Entry(1, "Ann in Bri"), Entry(2, "Bo has dog")]
    await env.close()


async def test_only_the_answerer_plays_on_a_given_bank() -> None:
    env, task = made(told("temporal", "home", *MOVES), manager="exact")
    (first,) = await env.reset(task, seed=0)
    assert first.content == "1 Ann in Osk was Bri\n? Ann was in"
    assert (await env.step(Action("<answer>bri.</answer>"))).reward == 1.0
    await env.close()


async def test_the_plain_style_shows_json_and_dates_no_answer() -> None:
    env = MemoryQA(sessions=2)
    task = env_tasks(env, 1)[0]
    (first,) = await env.reset(task, seed=0)
    assert "Memories:\n(none)" in first.content
    assert '"event": "ADD|UPDATE|DELETE|NONE"' in first.content
    turns = list(env.expert(task, seed=0))
    assert turns[0].startswith('{"memory": [{')
    assert turns[-1].endswith(f"**Answer:** {task.answer}")
    await env.close()


async def test_copies_have_banks_of_their_own() -> None:
    env, task = made(told("counted", "pets", *PETS[:2]), answerer="exact")
    await played(env, task, ["ADD Ann has dog"])
    left, right = await env.fork(2)
    await env.close()
    assert (await left.step(Action("UPDATE 1 Ann has dog cat"))).reward == 1.0
    assert (await right.step(Action("NOOP"))).reward == 0.0
    await left.close()
    await right.close()


async def expert_rewards(env: MemoryQA, tasks: Sequence[Task]) -> dict[str, float]:
    """Mean reward by kind."""
    earned: dict[str, list[float]] = {}
    for i, task in enumerate(tasks):
        steps = await played(env, task, list(env.expert(task, seed=i)))
        assert steps[-1].terminated
        earned.setdefault(str(task.metadata["family"]), []).append(steps[-1].reward)
    await env.close()
    return {kind: sum(rewards) / len(rewards) for kind, rewards in earned.items()}


@pytest.mark.parametrize("style", list(STYLES))
async def test_the_exact_expert_is_always_right(style: Any) -> None:
    env = MemoryQA(style=style, sessions=3, facts=2, people=3)
    assert await expert_rewards(env, env_tasks(env, 80, "test")) == dict.fromkeys(KINDS, 1.0)


async def test_the_careless_expert_is_wrong_as_worked_out() -> None:
    """At care c = 0.5 with three sessions: `single` needs one event, c = 1/2; `changed` needs the
    change, which the hasty half still overwrites when the value before was known, c + (1-c) c / 2 =
    5/8; `temporal` needs both, c^2 = 1/4."""
    env = MemoryQA(style="terse", sessions=3, care=0.5)
    assert env.expert_floor is None
    kinds = ("single", "changed", "temporal")
    tasks = env_tasks(MemoryQA(style="terse", sessions=3, kinds=kinds), 900, "test")
    rates = await expert_rewards(env, tasks)
    for kind, rate in zip(kinds, (0.5, 0.625, 0.25), strict=True):
        assert abs(rates[kind] - rate) < 0.1, (kind, rates)


async def test_demonstrations_agree_with_the_bank_the_environment_made() -> None:
    """Care below 1 also shapes what the policy does not manage; the expert foresees it."""
    env = MemoryQA(style="terse", sessions=3, care=0.4, manages="random", answerer="exact")
    for i, task in enumerate(env_tasks(env, 40)):
        await env.reset(task, seed=99)
        (turn,) = env.expert(task, seed=i)
        assert (await env.step(Action(turn))).terminated
        assert env.invalid == 0
    await env.close()


def test_retrieval_gives_each_speaker_a_share() -> None:
    """Six places, two speakers: three each; what is left goes to the best of the others."""
    bank = MemoryBank()
    for i in range(5):
        bank.add(f"Ann note {i}")
    bank.add("Bo likes chess")
    bank.add("nobody likes chess")
    found = for_answer(bank, "Ann?", ("Ann", "Bo"), k=6)
    assert [e.id for e in found] == [1, 2, 3, 6, 4, 5]
    assert [e.id for e in for_answer(bank, "chess", ("Ann", "Bo"), k=2)] == [5, 6]
    assert (names("Mary Ann's dog", "mary ann"), names("Annabel", "Ann"), names("x", "")) == (
        True,
        False,
        False,
    )
    bank.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kinds": ("multi",)}, "choose some of single, changed, temporal, counted"),
        ({"kinds": ()}, "choose some of"),
        ({"sessions": 1}, "at least 2 for such questions"),
        ({"sessions": 0}, "at least 1"),
        ({"care": 1.5}, "between 0 and 1"),
        ({"manager": "nobody"}, "policy or exact"),
        ({"manager": "exact", "answerer": "exact"}, "nobody would be trained"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        MemoryQA(**options)


async def test_foreign_tasks_are_told() -> None:
    env = MemoryQA()
    with pytest.raises(UserError, match="not made by memory_qa"):
        await env.reset(Task("x", "2 + 2?", "4", {"family": "sum"}), seed=0)
    with pytest.raises(UserError, match="splits train, validation, test"):
        env.tasks("dev", seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        await env.step(Action("x"))


async def test_a_blind_turn_serves_either_role() -> None:
    env, task = made(told("single", "home", *MOVES[:1]))
    for seed in range(30):
        steps = await played(env, task, [env.random_turn(Random(seed)) for _ in range(2)])
        assert steps[-1].info.answer is not None
        asked = env.random_turn(Random(seed)).split()[0]
        assert env.invalid == (asked in ("UPDATE", "DELETE"))  # there is nothing to update yet
    await env.close()


ENCODER = """
class Letters:
    def encode(self, texts):
        return [[float(text.casefold().count(letter)) for letter in "dot"] for text in texts]
"""


async def test_an_encoder_retrieves_by_cosine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Bo: got dog` counts (d, o, t) = (1, 3, 1): nearest is `dog dot` = (2, 2, 1), then `ttt`."""
    (tmp_path / "letters_encoder.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    story = told("single", "home", *MOVES[:1])
    story = replace(story, sessions=(*story.sessions, (Event("add", "Bo", "pets", "dog"),)))
    env, task = made(story, related=1, encoder="letters_encoder:Letters")
    (step,) = await played(env, task, ["ADD ttt\nADD dog dot\nADD ddd"])
    assert step.observation[0].content == "2 dog dot\n> Bo: got dog"
    await env.close()


def test_single_events_need_one_session() -> None:
    assert env_tasks(MemoryQA(sessions=1, kinds=("single",)), 3)[0].metadata["family"] == "single"
    assert after(Event("add", "A", "pets", "dog"), Fact(("dog",))) == Fact(("dog",))
    assert listed([Entry(3, "x")]) == "3 x"
    assert Operation("DELETE", 4).line == "DELETE 4"
    assert TERSE_PETS.many
