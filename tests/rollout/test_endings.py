"""Every way an episode can end, and what is written down about it.

nano's ids: byte b is b; 257 <|user|>, 258 <|system|>, 259 <|assistant|>, 260 <|end|>, 261 <|tool|>,
264 <code>, 265 </code>, 266 <interpreter>, 267 </interpreter>, 268 <answer>, 269 </answer>. The
quiz's prompt is `<|system|>Tools: python<|end|><|user|>Q<|end|><|assistant|>`: 19 tokens; the bare
environment's `<|user|>Q<|end|><|assistant|>`: 4.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentrl.env import Action, StepInfo, StepResult
from agentrl.errors import (
    DeadlineExceeded,
    EngineError,
    SandboxError,
    ToolError,
    UserError,
)
from agentrl.testing import FakePool
from agentrl.trajectory import StopReason
from agentrl.transcript import Origin
from agentrl.types import Message

CALL, ANSWER = "<code>1</code>", "<answer>4</answer>"


async def test_terminated(world: Any):
    """<code>1</code>, its output 1, then the right answer."""
    done = await world.play(world.turns(CALL, ANSWER))
    assert done.stop is StopReason.TERMINATED
    assert done.rewards == {"env": 1.0}
    assert (done.n_turns, done.n_calls, done.error) == (2, 1, None)
    row = done.rows[0]
    assert row.token_ids[19:].tolist() == [264, 49, 265, 266, 49, 267, 268, 52, 269, 260]
    assert [(s.origin, len(s)) for s in row.segments] == [
        (Origin.PROMPT, 19),
        (Origin.MODEL, 3),
        (Origin.OBSERVATION, 3),
        (Origin.MODEL, 4),
    ]
    assert row.mask.tolist() == [False] * 19 + [True] * 3 + [False] * 3 + [True] * 4
    assert [m.role for m in done.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert (done.calls[0].name, done.calls[0].arguments, done.calls[0].content) == (
        "python",
        '{"code": "1"}',
        "1",
    )
    assert world.log.closed == 1


async def test_env_truncated(world: Any):
    async def step(action: Action) -> StepResult:
        return StepResult((Message("user", "unseen"),), 0.25, False, True, StepInfo(answer="x"))

    done = await world.play(world.turns("a"), world.bare(step=step))
    assert (done.stop, done.truncated) == (StopReason.ENV_TRUNCATED, True)
    assert (done.rewards, done.answer) == ({"env": 0.25}, "x")
    assert done.rows[0].token_ids.tolist() == [257, 81, 260, 259, 97, 260]


async def test_rewards_of_steps_add_up_and_exclusion_is_kept(world: Any):
    async def step(action: Action) -> StepResult:
        last = "b" in action.text
        info = StepInfo(excluded=None if last else "unverified")
        return StepResult((Message("user", "on"),), 0.25, last, False, info)

    done = await world.play(world.turns("a", "a", "b"), world.bare(step=step))
    assert (done.rewards["env"], done.excluded, done.n_turns) == (0.75, "unverified", 3)


async def test_max_turns(world: Any):
    done = await world.play(world.turns(CALL), max_turns=2)
    assert (done.stop, done.n_turns, done.n_calls) == (StopReason.MAX_TURNS, 2, 2)
    assert done.rows[0].segments[-1].origin is Origin.OBSERVATION


async def test_turn_tokens(world: Any):
    """Five tokens of one generation without a stop."""
    done = await world.play(world.turns("abcdefgh"), turn_tokens=5)
    assert (done.stop, done.truncated) == (StopReason.TURN_TOKENS, True)
    assert done.rows[0].token_ids[19:].tolist() == list(b"abcde")


async def test_max_tokens_cuts_the_generation(world: Any):
    """19 of the prompt leave room for 6."""
    engine = world.turns("abcdefgh")
    done = await world.play(engine, turn_tokens=100, max_tokens=25)
    assert done.stop is StopReason.MAX_TOKENS
    assert (len(done.rows[0]), engine.samplings[0].max_tokens) == (25, 6)


async def test_an_observation_may_use_up_the_row(world: Any):
    """19 + 3 of the call + 3 of the output = 25: nothing is generated after it."""
    engine = world.turns(CALL, ANSWER)
    done = await world.play(engine, max_tokens=25)
    assert (done.stop, done.n_turns, len(engine.rows)) == (StopReason.MAX_TOKENS, 1, 1)


async def test_context(world: Any):
    """The engine's 24 are fewer than the row's 25; at a tie the row's budget is named."""
    done = await world.play(world.turns("abcdefgh", max_context=24), max_tokens=25)
    assert (done.stop, len(done.rows[0])) == (StopReason.CONTEXT, 24)
    done = await world.play(world.turns("abcdefgh", max_context=25), max_tokens=25)
    assert (done.stop, len(done.rows[0])) == (StopReason.MAX_TOKENS, 25)


async def test_a_prompt_that_fills_the_context_generates_nothing(world: Any):
    engine = world.turns(ANSWER, max_context=19)
    done = await world.play(engine)
    assert (done.stop, done.n_sampled, engine.rows) == (StopReason.CONTEXT, 0, [])


async def test_max_calls(world: Any):
    """The second call is not made."""
    done = await world.play(world.turns(CALL), max_calls=1)
    assert (done.stop, world.log.code) == (StopReason.MAX_CALLS, ["1"])


async def test_the_last_call_may_be_followed_by_an_answer(world: Any):
    done = await world.play(world.turns(CALL, CALL, ANSWER), max_calls=2)
    assert (done.stop, done.n_calls) == (StopReason.TERMINATED, 2)


async def test_an_unreadable_action_is_no_call(world: Any):
    """`</code>` without an opening: answered, kept in the ledger, not counted as a call."""
    done = await world.play(world.turns("1</code>", ANSWER), max_calls=0)
    assert (done.stop, done.n_calls) == (StopReason.TERMINATED, 0)
    assert [c.error for c in done.calls] == ["parse"]
    assert "There is no <code>" in done.calls[0].content


async def test_parse_errors(world: Any):
    """Two in a row are answered; the third ends the episode."""
    done = await world.play(world.turns("1</code>"), max_parse_errors=2)
    assert (done.stop, done.n_turns, len(done.calls)) == (StopReason.PARSE_ERRORS, 3, 3)
    assert not done.truncated


async def test_a_readable_action_starts_the_count_again(world: Any):
    bad = "1</code>"
    done = await world.play(world.turns(bad, bad, CALL, bad, bad, ANSWER), max_parse_errors=2)
    assert (done.stop, done.n_turns) == (StopReason.TERMINATED, 6)


async def test_deadline_keeps_what_was_sampled(world: Any, sleep: Any):
    done = await world.play(world.turns(CALL, ANSWER), world.quiz(sleep(30)), episode_s=0.1)
    assert (done.stop, done.error, done.truncated) == (StopReason.DEADLINE, None, True)
    assert done.n_sampled == 3
    assert world.log.closed == 1


async def test_deadline_inside_the_environment_and_inside_a_generation(world: Any, sleep: Any):
    done = await world.play(world.turns("a"), world.bare(step=sleep(30)), episode_s=0.05)
    assert done.stop is StopReason.DEADLINE
    slow = world.turns("a" * 100, tokens_per_s=10)
    done = await world.play(slow, episode_s=0.05)
    assert (done.stop, done.n_sampled) == (StopReason.DEADLINE, 0)


@pytest.mark.parametrize("stage", ["open", "reset"])
async def test_a_deadline_before_the_first_prompt_is_the_world_s_fault(
    world: Any, sleep: Any, stage: str
):
    done = await world.play(world.turns("a"), world.bare(**{stage: sleep(30)}), episode_s=0.05)
    assert (done.stop, done.rows) == (StopReason.ERROR, ())
    assert done.error == "DeadlineExceeded: the environment did not start within 0.05 s"


async def test_error_of_the_world(world: Any, fail: Any):
    """Sampled tokens stay for the reader; the reward is not 0, it is missing."""
    done = await world.play(world.turns(CALL), world.quiz(fail(SandboxError("box lost"))))
    assert (done.stop, done.error) == (StopReason.ERROR, "SandboxError: box lost")
    assert (done.rewards, done.reward) == ({}, None)
    assert done.n_sampled == 3
    assert world.log.closed == 1


async def test_a_world_s_timeout_is_not_the_episode_s_deadline(world: Any, fail: Any):
    late = DeadlineExceeded("the search server did not answer")
    done = await world.play(world.turns(CALL), world.quiz(fail(late)))
    assert (done.stop, done.error) == (
        StopReason.ERROR,
        "DeadlineExceeded: the search server did not answer",
    )


async def test_a_failing_tool_is_an_observation(world: Any, fail: Any):
    """The model's fault: it reads about it and goes on."""
    done = await world.play(world.turns(CALL, ANSWER), world.quiz(fail(ToolError("no such file"))))
    assert (done.stop, done.calls[0].error, done.calls[0].content) == (
        StopReason.TERMINATED,
        "execution",
        "no such file",
    )
    shown = [s for s in done.rows[0].segments if s.origin is Origin.OBSERVATION]
    assert shown[0].token_ids.tolist() == [266, *b"no such file", 267]


async def test_engine_failures(world: Any, fail: Any):
    engine = world.turns("a")
    engine.generate = fail(EngineError("it died"))
    done = await world.play(engine)
    assert (done.stop, done.error) == (StopReason.ERROR, "EngineError: it died")


async def test_a_generation_has_a_deadline(world: Any):
    slow = world.turns("a" * 100, tokens_per_s=10)
    done = await world.play(slow, generate_s=0.05)
    assert (done.stop, done.error) == (
        StopReason.ERROR,
        "EngineError: no generation within 0.05 s",
    )


async def test_an_aborted_generation_is_an_error(world: Any):
    from dataclasses import replace

    engine = world.turns("ab")
    generate = engine.generate

    async def aborted(*arguments: Any) -> Any:
        return replace(await generate(*arguments), stop="abort")

    engine.generate = aborted
    done = await world.play(engine)
    assert (done.stop, done.error) == (
        StopReason.ERROR,
        "EngineError: the engine aborted the request",
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("x"), "EnvFault: the environment raised ZeroDivisionError: x"),
        (TimeoutError("slow"), "EnvFault: the environment raised TimeoutError: slow"),
        (ToolError("bad"), "EnvFault: the environment let ToolError pass: bad"),
        (
            ExceptionGroup("two", [ValueError("x")]),
            "EnvFault: the environment raised ExceptionGroup: two (1 sub-exception)",
        ),
    ],
)
@pytest.mark.parametrize("stage", ["open", "reset", "step"])
async def test_what_an_environment_raises_of_its_own_is_data(
    world: Any, fail: Any, stage: str, error: Exception, told: str
):
    done = await world.play(world.turns("a"), world.bare(**{stage: fail(error)}))
    assert (done.stop, done.error) == (StopReason.ERROR, told)
    assert world.log.closed == 1


async def test_a_user_s_mistake_crashes(world: Any, fail: Any):
    with pytest.raises(UserError, match="task t has no answer"):
        await world.play(
            world.turns("a"), world.bare(reset=fail(UserError("task t has no answer")))
        )
    assert world.log.closed == 1


async def test_our_own_fault_crashes(world: Any):
    class Broken:
        name, stops = "broken", ()

        def tool_prompt(self, tools: object) -> str:
            return ""

        def parse(self, *_: object, **__: object) -> Action:
            raise KeyError("a bug of ours")

    with pytest.raises(KeyError, match="a bug of ours"):
        await world.play(world.turns("a"), world.bare(), protocol=Broken())
    assert world.log.closed == 1


async def test_cancellation_closes(world: Any):
    started = asyncio.Event()

    async def run(code: str) -> str:
        started.set()
        await asyncio.sleep(30)
        return "never"

    playing = asyncio.ensure_future(world.play(world.turns(CALL), world.quiz(run)))
    await started.wait()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert (world.log.closed, world.log.running) == (1, 0)


async def test_close_runs_to_its_end_although_cancelled(world: Any):
    """The cancellation arrives while `close` is under way."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def close() -> None:
        started.set()
        await asyncio.sleep(0.1)
        ended.set()

    async def step(action: Action) -> StepResult:
        return StepResult((), 1.0, True, False, StepInfo())

    playing = asyncio.ensure_future(
        world.play(world.turns("a"), world.bare(step=step, close=close))
    )
    await started.wait()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    await asyncio.wait_for(ended.wait(), 5)


class SullenSandbox:
    """It cannot be given back."""

    closes = 0

    async def close(self) -> None:
        type(self).closes += 1
        raise SandboxError("the zygote is gone")


class SullenPool:
    async def acquire(self) -> SullenSandbox:
        return SullenSandbox()


@pytest.mark.parametrize("close", ["raises", "hangs"])
async def test_a_close_that_fails_does_not_change_the_verdict(
    world: Any, fail: Any, sleep: Any, close: str
):
    leased: list[Any] = []

    async def open_env(ctx: Any) -> None:
        leased.append(await ctx.lease_sandbox())

    async def step(action: Action) -> StepResult:
        return StepResult((), 1.0, True, False, StepInfo())

    closing = fail(OSError("gone")) if close == "raises" else sleep(30)
    made = world.bare(open=open_env, step=step, close=closing)
    before = SullenSandbox.closes
    done = await world.play(world.turns("a"), made, pool=SullenPool(), close_s=0.1)
    assert (done.stop, done.rewards) == (StopReason.TERMINATED, {"env": 1.0})
    assert SullenSandbox.closes == before + 1


async def test_one_sandbox_an_episode_closed_at_its_end(world: Any):
    pool = FakePool(["1", "2"])

    async def open_env(ctx: Any) -> None:
        first, second = await ctx.lease_sandbox(), await ctx.lease_sandbox()
        assert first is second

    await world.play(world.turns("a"), world.bare(open=open_env), pool=pool, max_turns=1)
    assert [box.closed for box in pool.sandboxes] == [True]
