"""The watcher: what counts as a circle, what it does to a stream, and what of it is trained."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.errors import EngineError, UserError, WorldFault
from agentrl.points import Ctx, Services, needs_of
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.trimr import Watched
from agentrl.rollout.plans.watch_rules import looping, reconsidered, result, thoughts
from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=1, seed=0)


@pytest.mark.parametrize(
    ("text", "repeats", "min_chars", "found"),
    [
        ("x so so so so ", 4, 12, True),
        ("x so so so so ", 5, 12, False),
        ("x so so so so ", 4, 13, False),
        ("aaaaaaaa", 4, 8, True),
        ("aaaaaaaa", 4, 9, False),
        ("so so so so then", 3, 6, False),
        ("abc " * 3 + "abd ", 3, 6, False),
    ],
)
def test_loops(text: str, repeats: int, min_chars: int, found: bool) -> None:
    assert looping(text, repeats, min_chars) is found


AGAIN = "2+2 = 4. Wait, once more: the answer is 4. Hmm, so \\boxed{4}. Actually, let me"


def test_thoughts_and_results() -> None:
    assert [part[:6] for part in thoughts(AGAIN)] == ["2+2 = ", "Wait, ", "Hmm, s", "Actual"]
    assert [result(part) for part in thoughts(AGAIN)] == ["4", "4", "4", None]
    assert reconsidered(AGAIN, 3)
    assert not reconsidered(AGAIN, 4)
    assert not reconsidered(AGAIN.replace("answer is 4", "answer is 5"), 3)
    assert reconsidered(AGAIN.replace("2+2 = 4", "2+2 = 5"), 2)
    assert not reconsidered("so. Wait, so. Wait, so. Wait, ", 2), "nothing is no result"


async def watched(world: Any, plan: Watched, *texts: str, judge: Any = None) -> Trajectory:
    """An engine that writes the first text on, and after the closing the next one."""
    pieces = [list(world.renderer.demo(t, ended=t.endswith("!"))) for t in texts]
    place, closing = [0] * len(texts), world.renderer.demo(CLOSE).tolist()

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        ids = [int(i) for i in row]
        which = min(
            sum(ids[i : i + len(closing)] == closing for i in range(len(ids))), len(texts) - 1
        )
        part = pieces[which][place[which] : place[which] + sampling.max_tokens]
        place[which] += len(part)
        return Reply(part, [-0.5] * len(part))

    parts = world.parts(world.script(write), turn_tokens=200)
    services = Services(episodes=Episodes(parts, seed=1, retries=0), judge=judge)
    return (await plan.collect(world.task, services, CTX)).trajectories[0]


CLOSE = "\n</think>\n"


def plan(**options: Any) -> Watched:
    return Watched(**{"group_size": 1, "every": 8, "min_chars": 12, "closing": CLOSE, **options})


async def test_a_looping_stream_is_closed_and_goes_on(world: Any) -> None:
    """`ab ` for ever: after 16 tokens there are 5 of them, 15 characters; the answer follows."""
    one = await watched(world, plan(), "ab " * 60, "<answer>4</answer>!")
    kinds = [(s.origin, len(s)) for s in one.rows[0].segments[1:]]
    assert kinds[:3] == [
        (Origin.MODEL, 8),
        (Origin.MODEL, 8),
        (Origin.SCAFFOLD, len(world.renderer.demo(CLOSE))),
    ]
    assert one.rewards["env"] == 1.0
    assert {k: v for k, v in one.rewards.items() if v} == {
        "env": 1.0, "trimr/cuts": 1.0, "trimr/loop": 1.0,
    }  # fmt: skip
    row = one.rows[0]
    assert row.mask.tolist() == [
        s.origin is Origin.MODEL for s in row.segments for _ in range(len(s))
    ]
    later = await watched(world, plan(repeats=9), "ab " * 60, "<answer>4</answer>!")
    first = sum(len(s) for s in later.rows[0].segments[1:] if s.origin is Origin.MODEL) - (
        one.n_sampled - 16
    )
    assert first == 32, "turned: nine copies are there after 27 characters, seen at 32"


async def test_needless_reconsidering_is_closed(world: Any) -> None:
    one = await watched(world, plan(), AGAIN + " see" * 40, "<answer>4</answer>!")
    assert one.rewards["trimr/again"] == 1.0
    assert one.rewards["env"] == 1.0
    never = await watched(world, plan(agree=9), AGAIN + "!")
    assert never.rewards["trimr/cuts"] == 0.0


async def test_what_is_fine_is_left_alone(world: Any) -> None:
    text = "Let x be 3 and y be 1. <answer>4</answer>!"
    one = await watched(world, plan(), text)
    assert one.messages[-1].content == text
    assert one.rewards["trimr/cuts"] == 0.0
    assert all(s.origin is Origin.MODEL for s in one.rows[0].segments[1:])


class Judge:
    def __init__(self, *replies: str) -> None:
        self.replies, self.texts = list(replies), list[str]()

    async def grade(self, prompt: str) -> str:
        self.texts.append(prompt)
        reply = self.replies.pop(0)
        if reply == "gone":
            raise WorldFault("gone")
        return reply


async def test_the_judge_may_say_so(world: Any) -> None:
    judge = Judge("No.", "gone", "Yes, it is done")
    letters = "abcdefgh" * 9
    watcher = plan(judge=True, repeats=3)
    one = await watched(world, watcher, letters, "<answer>4</answer>!", judge=judge)
    assert one.rewards["trimr/judge"] == 0.0, "the loop is found before the third question"
    judge = Judge("No.", "gone", "Yes, it is done")
    text = "The quick brown foxes jump over some of the lazy dogs and so on"
    one = await watched(world, plan(judge=True), text, "<answer>4</answer>!", judge=judge)
    assert (one.rewards["trimr/judge"], one.rewards["env"]) == (1.0, 1.0)
    assert judge.texts[0].endswith(text[:8])
    assert needs_of(plan(judge=True)) == {"judge"}
    assert not needs_of(plan())
    with pytest.raises(UserError, match="there is none"):
        await watched(world, plan(judge=True), text)


async def test_an_endless_stream_ends_and_failures_are_refilled(world: Any) -> None:
    one = await watched(world, plan(), "ab " * 200, "cd " * 200)
    assert one.stop is StopReason.TURN_TOKENS
    assert one.rewards["trimr/cuts"] == 1.0, "closed once, then unwatched"

    def once(row: Any, sampling: Sampling, index: int) -> str:
        if index == 0:
            raise EngineError("gone")
        return "no"

    parts = world.parts(world.script(once))
    services = Services(episodes=Episodes(parts, seed=1))
    group = await Watched(group_size=2).collect(world.task, services, CTX)
    assert [(t.sibling, t.error) for t in group.trajectories] == [(0, None), (1, None)]
