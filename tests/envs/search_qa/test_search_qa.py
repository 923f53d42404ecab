"""Questions over a made-up world: corpus, hops, the turn rules of Search-R1, scores."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from agentrl.chat.protocols.search_r1 import SearchR1
from agentrl.context import Context
from agentrl.env import StepResult
from agentrl.errors import UserError
from agentrl.testing import check_env
from agentrl.testing.fakes import FakePool
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.search_qa.env import SearchQA
from agentrl_envs.search_qa.world import WorldSpec, world_of

DOGS = Task(
    "file/0",
    "Who feeds the dog of Ada",
    "Bob",
    {
        "answers": ["Bob", "Robert Bob"],
        "passages": [
            {"title": "Ada", "text": "Ada owns Rex."},
            {"title": "Rex", "text": "Rex is fed by Bob."},
            {"title": "Carol", "text": "Carol met Ada and Rex."},
        ],
    },
)


async def played(env: SearchQA, task: Task, *turns: str) -> list[StepResult]:
    await env.open(Context())
    await env.reset(task, seed=0)
    protocol = SearchR1(bare=env.options.style == "terse")
    steps = [await env.step(protocol.parse(ids_array(()), t, turn=i)) for i, t in enumerate(turns)]
    await env.close()
    return steps


@pytest.mark.parametrize("style", ["terse", "plain"])
async def test_keeps_every_promise(style: str) -> None:
    found = await check_env(lambda: SearchQA(style=style, people=60), pool=FakePool(lambda _: ""))
    assert [c for c in found if not c.ok or c.detail.startswith("skipped")] == []


def test_the_worlds_of_train_and_test_share_no_name() -> None:
    for style in ("terse", "plain"):
        words = [
            {
                w
                for name in world_of(WorldSpec(split, style, people=200)).kinds
                for w in name.split()
            }
            for split in ("train", "test")
        ]
        assert words[0] & words[1] <= {"Works"}
        assert len(words[0]) > 250


def test_a_world_is_its_seed() -> None:
    spec = WorldSpec("train", "terse", people=40)
    first = world_of(spec)
    world_of.cache_clear()
    again = world_of(spec)
    assert first is not again
    assert (first.facts, first.passages) == (again.facts, again.passages)
    assert world_of(WorldSpec("train", "terse", seed=1, people=40)).facts != first.facts


def test_a_world_has_a_page_for_everybody_and_distractors_beside() -> None:
    """40 people, 10 towns, 10 companies: 60 pages and 2 passages about each that answer nothing."""
    world = world_of(WorldSpec("train", "terse", people=40, distractors=2))
    assert len(world.kinds) == 60
    assert len(world.passages) == 60 + 120
    assert len(world.facts) == 40 * 3 + 10 * 3 + 10 * 3
    page = world.passages[0]
    assert (
        page.text
        == f"home {world.facts[page.title, 'home']} firm {world.facts[page.title, 'firm']}"
    )


def test_a_question_is_answered_by_walking_the_facts() -> None:
    """The answer is worked out from the pages' text alone, by following the question's words."""
    env = SearchQA(style="terse", people=60)
    texts = {p.title: p.text for p in world_of(WorldSpec("test", "terse", people=60)).passages}
    seen: set[int] = set()
    for task in islice(env.tasks("test", seed=3), 60):
        here, *relations = task.question.rstrip("?").split()
        for relation in relations:
            found = re.search(rf"\b{relation} (\w+)", texts[here])
            assert found is not None
            here = found[1]
        assert here == task.answer
        assert len(relations) == task.metadata["hops"]
        seen.add(len(relations))
    assert seen == {1, 2, 3}


def test_plain_questions_nest_their_relations() -> None:
    tasks = islice(SearchQA(people=60).tasks("train", seed=0), 200)
    (task,) = [t for t in tasks if t.metadata["relations"] == ["home", "mayor"]][:1]
    start = task.metadata["path"][0]  # type: ignore[index]
    assert task.question == f"Who is the mayor of the town in which {start} lives?"


async def test_search_shows_the_best_passages_and_the_answer_ends() -> None:
    search, answer = await played(
        SearchQA(top_k=2), DOGS, "<search> Rex fed by </search>", "<answer> robert bob. </answer>"
    )
    assert search.observation[0].content == (
        'Doc 1(Title: "Rex") Rex is fed by Bob.\nDoc 2(Title: "Ada") Ada owns Rex.'
    )
    assert answer[1:4] == (1.0, True, False)
    assert answer.info.answer == "robert bob."


async def test_what_is_asked_ends_with_the_question() -> None:
    """Search-R1 appends a missing question mark; tiny models read the question alone."""
    env = SearchQA()
    (asked,) = await env.reset(DOGS, seed=0)
    assert asked.content.endswith("</answer>.\nQuestion: Who feeds the dog of Ada?")
    terse = SearchQA(style="terse")
    assert (await terse.reset(DOGS, seed=0))[0].content == "Who feeds the dog of Ada"


async def test_f1_is_an_option_and_boxes_are_opened() -> None:
    """`robert bob of york` has 2 of 4 words in the gold `Robert Bob`: F1 = 2 * .5 * 1 / 1.5 = 2/3."""
    (scored,) = await played(SearchQA(metric="f1"), DOGS, "<answer>Robert Bob of York</answer>")
    assert scored.reward == pytest.approx(2 / 3)
    (boxed,) = await played(SearchQA(), DOGS, "<answer>\\boxed{Bob}</answer>")
    assert (boxed.reward, boxed.info.answer) == (1.0, "Bob")


async def test_past_the_last_search_only_an_answer_counts() -> None:
    """Two turns may search or be unreadable; the third must answer."""
    searched = await played(
        SearchQA(max_searches=2), DOGS, "<search> Ada </search>", "hm", "<search> Rex </search>"
    )
    assert [s[2:4] for s in searched] == [(False, False), (False, False), (False, True)]
    assert "no complete search or answer" in searched[1].observation[0].content
    answered = await played(SearchQA(max_searches=1), DOGS, "hm", "<answer> Bob </answer>")
    assert answered[1][1:4] == (1.0, True, False)


async def test_a_query_without_a_known_word_is_told() -> None:
    (step,) = await played(SearchQA(), DOGS, "<search> ?? </search>")
    assert step.observation[0].content == "Nothing was found; try other words."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hops": (4,)}, "env.hops"),
        ({"search_habit": 2.0}, "env.search_habit"),
        ({"people": 3}, "env.people"),
        ({"retriever": {"path": "x"}}, "env.retriever needs a name"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SearchQA(**options)  # type: ignore[arg-type]


async def test_a_task_without_passages_needs_a_corpus() -> None:
    env = SearchQA()
    with pytest.raises(UserError, match=r"env\.retriever\.name"):
        await env.reset(Task("f/1", "Who?", "Bob"), seed=0)
    with pytest.raises(UserError, match="passage 0"):
        await env.reset(Task("f/2", "Who?", "Bob", {"passages": [{"title": "x"}]}), seed=0)


async def test_a_copy_goes_on_by_itself() -> None:
    env = SearchQA(max_searches=2)
    await env.open(Context())
    await env.reset(DOGS, seed=0)
    protocol = SearchR1()
    search = protocol.parse(ids_array(()), "<search> Ada </search>", turn=0)
    await env.step(search)
    (copy,) = await env.fork(1)
    await copy.open(Context())
    assert (await copy.step(search)).observation[0].content.startswith('Doc 1(Title: "Ada")')
    assert (await copy.step(search)).truncated
    assert not (await env.step(search)).truncated


def test_an_impatient_searcher_stops_where_it_has_got_to() -> None:
    """At habit 0.5 about 1/2, 1/4 and 1/8 of one, two and three hops are answered right: 0.29."""
    env = SearchQA(style="terse", people=60, search_habit=0.5)
    assert env.expert_floor is None
    right = 0
    for task in islice(env.tasks("train", seed=0), 900):
        *searches, last = env.expert(task, seed=1)
        path = list(task.metadata["path"])  # type: ignore[call-overload]
        assert searches == [f"<search>{name}</search>" for name in path[: len(searches)]]
        assert last == f"<answer>{path[len(searches)]}</answer>"
        right += len(searches) == task.metadata["hops"]
    assert right / 900 == pytest.approx((1 / 2 + 1 / 4 + 1 / 8) / 3, abs=0.04)
