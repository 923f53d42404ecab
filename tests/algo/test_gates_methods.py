"""Gates of the published methods: their numbers, what they mask, and how they add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from agentrl.algo.advantage import Outcome, estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.gate_chain import Chain
from agentrl.algo.gate_masks import MaskTruncated, VoidTurns, is_void
from agentrl.algo.gate_signal import ReasoningSignal
from agentrl.algo.gate_spread import Informative, StdEma, reward_std
from agentrl.algo.gate_weight import DifficultyWeight, diversity
from agentrl.algo.gates import ComponentBand, DivertFailed
from agentrl.algo.types import Batch
from agentrl.chat.protocols.fenced import Fenced
from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.plugins import build
from agentrl.points import Ctx, Divert, Drop, GroupGate, Keep, Services, needs_of
from agentrl.train.collect import Method, collect
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array, ids_array
from agentrl.types import Message, Task

CTX = Ctx(step=0, total_steps=100, seed=0)
TASK = Task("t", "?", metadata={"solution": "2+2"})
ROW = Transcript().append(
    Segment(Origin.PROMPT, ids_array([1])),
    Segment(Origin.MODEL, ids_array([2, 3]), logprobs=floats_array([-1.0, -1.0]), version=0),
)


def member(sibling: int, reward: float, **fields: Any) -> Trajectory:
    given: dict[str, Any] = {
        "rewards": {"env": reward}, "reward": reward, "stop": StopReason.TERMINATED, **fields,
    }  # fmt: skip
    return Trajectory(f"0/t/{sibling}", TASK, sibling, (ROW,), given.pop("messages", ()), **given)


def group(*rewards: float, **fields: Sequence[Any]) -> Group:
    """`fields` hold one value a member."""
    members = [
        member(i, r, **{name: values[i] for name, values in fields.items()})
        for i, r in enumerate(rewards)
    ]
    return Group(TASK, tuple(members))


def failed(*rewards: float) -> Group:
    """The same with a first member that the world failed."""
    lost = Trajectory("0/t/9", TASK, 9, (), (), StopReason.ERROR, error="lost")
    return Group(TASK, (lost, *group(*rewards).trajectories))


def verdict(gate: GroupGate, of: Group, ctx: Ctx = CTX) -> Any:
    return gate(of, HistoryStore(), ctx)


class Once:
    """A source and a plan that give one group."""

    def __init__(self, of: Group) -> None:
        self.of = of

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        return [self.of.task] * n

    async def collect(self, task: Task, services: object, ctx: Ctx) -> Group:
        return self.of


async def trained(of: Group, gate: GroupGate | None) -> Batch:
    """The batch that a step makes of the group, advantages included."""
    one: Any = Once(of)
    method = Method(one, one, Services(episodes=one), gate=gate)
    collected = await collect(method, HistoryStore(), CTX, 1)
    return estimate(Outcome(), make_batch(collected.kept, pad_id=0), CTX)


def advantages(batch: Batch) -> torch.Tensor:
    assert batch.advantages is not None
    return batch.advantages


# PC-GRPO


@pytest.mark.parametrize(
    ("answers", "right", "weight"),
    [("AABB", 2, 0.70711), ("ABBB", 1, 0.47767), ("ABBB", 0, 0.0), ("AAAA", 4, 0.0)],
)
def test_difficulty_weights_of_binary_puzzles(answers: str, right: int, weight: float) -> None:
    """4 d (1 - d) sqrt(H / log 4)."""
    rewards = [1.0] * right + [0.0] * (4 - right)
    found = verdict(DifficultyWeight(choices=4), group(*rewards, answer=tuple(answers)))
    assert found == Keep(weight=pytest.approx(weight, abs=1e-5))


def test_difficulty_weights_of_permutations() -> None:
    """Three distinct of four: dpi 2/3; graded d = .6 -> .96 sqrt(2/3)."""
    assert diversity(["12", "21", "12", "3"]) == pytest.approx(2 / 3)
    graded = group(0.6, 0.8, 0.4, 0.6, answer=("12", "21", "12", "3"))
    assert verdict(DifficultyWeight(), graded).weight == pytest.approx(0.96 * (2 / 3) ** 0.5)


def test_unanswered_and_lost_members() -> None:
    assert diversity([]) == diversity(["A"]) == diversity(["A"], 4) == 0.0
    silent = group(1.0, 0.0, 0.0, 1.0, answer=("A", "B", None, None))
    assert verdict(DifficultyWeight(choices=2), silent).weight == pytest.approx(1.0)
    with pytest.raises(UserError, match="choices >= 2"):
        DifficultyWeight(choices=1)


async def test_a_weight_multiplies_the_advantages() -> None:
    """d = .5 and two of two answers out of K = 16: 1 * sqrt(log 2 / log 16) = .5."""
    of = group(1.0, 0.0, answer=("A", "B"))
    plain, half = await trained(of, None), await trained(of, DifficultyWeight(choices=16))
    torch.testing.assert_close(advantages(half), advantages(plain) / 2)


# SimpleTIR


def turn(text: str) -> Message:
    action = Fenced().parse(ids_array([]), text, turn=0)
    return Message("assistant", text, tool_calls=action.tool_calls)


CODE = turn("So:\n```python\nprint(2)\n```\n")
BOXED = turn(r"Hence \boxed{3}.")
PROSE = turn("Let me think about it.")


@pytest.mark.parametrize(
    ("text", "void"),
    [
        ("```python\nprint(1)\n```\n", False),
        ("```py\nprint(1)\n```", False),
        (r"It is \boxed{3}", False),
        ("<answer>3</answer>", False),
        ("```python\nprint(1)", True),
        ("Let me think.", True),
        (r"It is \boxed{3", True),
        ("<answer>3", True),
        ("", True),
    ],
)
def test_what_a_void_turn_is(text: str, void: bool) -> None:
    assert is_void(turn(text)) is void


def test_trajectories_with_a_void_turn() -> None:
    """[code, prose] trains nothing; [code, boxed] does; observations are no turns."""
    seen = Message("tool", "2")
    conversations = [(CODE, seen, PROSE), (CODE, seen, BOXED), (PROSE, seen, BOXED), (BOXED,)]
    found = verdict(VoidTurns(), group(1, 0, 1, 0, messages=conversations))
    assert found == Keep(excluded={"0/t/0": "void", "0/t/2": "void"})
    assert verdict(VoidTurns(), group(1, 1, messages=[(PROSE,), (PROSE,)])) == Drop("void")
    assert verdict(
        VoidTurns(answers=("answer",)), group(1, 1, messages=[(BOXED,), (CODE,)])
    ) == Keep(excluded={"0/t/0": "void"})


async def test_void_trajectories_stay_in_the_statistics() -> None:
    """Rewards [1, 0, 1, 0], row 1 void: advantages from all four, loss from rows 0, 2, 3."""
    of = group(1, 0, 1, 0, messages=[(BOXED,), (PROSE,), (BOXED,), (BOXED,)])
    batch = await trained(of, VoidTurns())
    assert batch.mask.any(1).tolist() == [True, False, True, True]
    assert (batch.n_sequences, batch.n_tokens) == (3, 6)
    rows = torch.tensor([0.86602, 0.0, 0.86602, -0.86602])
    torch.testing.assert_close(advantages(batch).sum(1) / 2, rows, atol=1e-4, rtol=0)


def test_truncated_trajectories_are_masked() -> None:
    stops = (StopReason.MAX_TOKENS, StopReason.TERMINATED, StopReason.MAX_TURNS)
    of = group(0, 1, 0, stop=stops)
    assert verdict(MaskTruncated(), of) == Keep(excluded={"0/t/0": "overlong"})
    both = MaskTruncated(reasons=("overlong", "unfinished"))
    assert verdict(both, of).excluded == {"0/t/0": "overlong", "0/t/2": "unfinished"}
    assert verdict(MaskTruncated(), group(0, stop=(StopReason.CONTEXT,))) == Drop("overlong")


# RLPR


def past_of(*values: float) -> list[dict[str, float]]:
    return [{"reward_std": value} for value in values]


def at(step: int, past: list[dict[str, float]]) -> Ctx:
    return Ctx(step=step, total_steps=1000, seed=0, past=past)


def test_the_average_of_reward_deviations() -> None:
    """Steps 5 to 9 make the start; then .99 old + .01 new."""
    gate = StdEma()
    past = past_of(9, 9, 9, 9, 9, 0.1, 0.2, 0.3, 0.4, 0.5, 1.3)
    assert gate.average(past[:10], 10) == pytest.approx(0.3)
    assert gate.average(past, 11) == pytest.approx(0.99 * 0.3 + 0.01 * 1.3)
    assert gate.average([*past, {"reward_std": float("nan")}, {}], 13) == pytest.approx(0.31)


def test_groups_of_little_deviation_are_dropped() -> None:
    """Sample deviation of [1, 0] is .7071; beta .5 of 1.5 lets it fall, of 1.4 keeps it."""
    assert reward_std(group(1, 0)) == pytest.approx(0.70711, abs=1e-5)
    assert reward_std(failed(1)) == 0.0
    assert verdict(StdEma(), group(1, 0), at(10, past_of(*[1.5] * 10))) == Drop("std_low")
    assert verdict(StdEma(), group(1, 0), at(10, past_of(*[1.4] * 10))) == Keep()
    assert verdict(StdEma(beta=0.4), group(1, 0), at(10, past_of(*[1.5] * 10))) == Keep()
    assert verdict(StdEma(), group(1, 1), at(9, past_of(*[1.5] * 9))) == Keep()
    with pytest.raises(UserError, match="'reward_std'"):
        verdict(StdEma(), group(1, 0), at(10, [{"reward": 1.0}] * 10))
    with pytest.raises(UserError, match="ema_from < filter_from"):
        StdEma(ema_from=10)


def test_a_window_that_slides_is_read_from_its_start() -> None:
    gate, values = StdEma(), [1 + step / 100 for step in range(600)]
    whole = gate.average(past_of(*values), 600)
    assert gate.average(past_of(*values[200:]), 600) == pytest.approx(whole, rel=0.02)


# SSB, ReLIFT and plain bands


def test_informative_groups_are_kept_and_remembered() -> None:
    assert verdict(Informative(), group(1, 0, 0)) == Keep(remember=True)
    assert verdict(Informative(), group(1, 1)) == Drop("flat")
    assert verdict(Informative(min_std=0.8), group(1, 0)) == Drop("flat")
    tokens = Group(TASK, group(1, 1).trajectories, 0, (floats_array([0, 0, 1]),) * 2)
    assert verdict(Informative(), tokens) == Keep(remember=True)


def test_tasks_nobody_solved_go_to_supervision() -> None:
    gate = DivertFailed()
    assert verdict(gate, group(0, 0)) == Divert("sft", "failed_all")
    assert verdict(gate, failed(0, 0)) == Divert("sft", "failed_all")
    assert verdict(gate, group(0, 1)) == Keep()
    assert verdict(gate, failed()) == Drop("failed")
    assert verdict(DivertFailed(demo="solution"), group(0, 0)) == Divert("sft", "failed_all")
    assert verdict(DivertFailed(demo="trace"), group(0, 0)) == Keep()
    assert needs_of(gate) == {"expert", "demonstrations"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"of": "std", "low": 0.5}, Drop("std_low")),
        ({"of": "std", "low": 0.4}, Keep()),
        ({"of": "max", "high": 0.9}, Drop("max_high")),
        ({"of": "min", "low": 0.3, "high": 0.5}, Keep()),
        ({"of": "mean", "low": 0.7}, Drop("mean_low")),
        ({"of": "mean", "component": "env", "high": 0.7}, Keep()),
    ],
)
def test_a_band_of_any_component(options: dict[str, Any], found: object) -> None:
    """Rewards .3, 1, .6: mean .6333, sample deviation .3512; scaled by 4/3 .4683."""
    scaled = group(0.4, 4 / 3, 0.8)
    of = scaled if options["of"] == "std" else group(0.3, 1.0, 0.6)
    assert verdict(ComponentBand(**options), of) == found


def test_a_band_of_nothing_is_told() -> None:
    with pytest.raises(UserError, match=r"gate\.low"):
        ComponentBand()
    with pytest.raises(UserError, match="no trajectory has the reward 'sigma'; it has env"):
        verdict(ComponentBand(component="sigma", low=0), group(1))


# DRO


def reasoned(*rows: Sequence[float]) -> Group:
    """One trajectory a row of logprobs."""
    rewards = [{"env": 0.0} | {f"r3/logp/{j}": x for j, x in enumerate(row)} for row in rows]
    return group(*[0.0] * len(rows), rewards=rewards)


def test_references_that_reasoning_cannot_move_are_dropped() -> None:
    """Logprobs [-1, -.1] and [-3, -.1]: deviations 1 and 0; the better worst token has -1."""
    of = reasoned([-1.0, -0.1], [-3.0, -0.1])
    strict: dict[str, Any] = {"carry": 0.0, "worst": 0.5}
    # exp(-1) = .368 lies between 1/3 and 1/2.
    assert verdict(ReasoningSignal(top_k=3, **strict), of) == Keep()
    assert verdict(ReasoningSignal(top_k=2, **strict), of) == Drop("out_of_reach")
    assert verdict(ReasoningSignal(top_k=2, carry=0.0, worst=1.0), of) == Keep()
    assert verdict(ReasoningSignal(min_sigma=1.0, **strict), of) == Keep()
    assert verdict(ReasoningSignal(min_sigma=1.01, **strict), of) == Drop("no_signal")
    assert verdict(ReasoningSignal(min_sigma=9.0, carry=1.0), of) == Keep()
    kept = [
        verdict(ReasoningSignal(min_sigma=9.0), of, Ctx(step=step, total_steps=1, seed=0)) == Keep()
        for step in range(1000)
    ]
    assert sum(kept) == pytest.approx(100, abs=30)
    with pytest.raises(UserError, match="r3/logp/0"):
        verdict(ReasoningSignal(), group(1.0))


# Chains


def test_a_chain_adds_up_and_the_first_refusal_decides() -> None:
    """SimpleTIR: std < 1e-3 dropped, accuracy .1 to .9 kept, void turns masked."""
    node = Plugin.model_validate(
        {
            "name": "chain",
            "gates": [
                {"name": "component_band", "of": "std", "low": 1e-3},
                {"name": "accuracy_band", "low": 0.1, "high": 0.9, "open": False},
                {"name": "void_turns"},
                {"name": "difficulty_weight", "choices": 2},
                {"name": "informative"},
            ],
        }
    )
    chain = build("gate", node)
    talk = [(BOXED,), (PROSE,), (BOXED,), (BOXED,)]
    kept = verdict(chain, group(1, 0, 1, 0, messages=talk, answer=("A", "B", "A", "B")))
    assert kept == Keep(weight=pytest.approx(1.0), remember=True, excluded={"0/t/1": "void"})
    assert verdict(chain, group(1, 1, 1, 1)) == Drop("std_low")
    assert verdict(chain, group(0.2, 0.4)) == Drop("hard")
    weights = Chain(gates=(_node("difficulty_weight", choices=2), _node("difficulty_weight")))
    assert verdict(weights, group(1, 0, 0, 0, answer=tuple("ABBB"))).weight == pytest.approx(
        0.75 * diversity("ABBB", 2) ** 0.5 * 0.75 * (1 / 3) ** 0.5
    )


def _node(name: str, **options: object) -> Plugin:
    return Plugin.model_validate({"name": name, **options})


def test_a_chain_needs_what_its_gates_need() -> None:
    chain = Chain(gates=(_node("divert_failed"), _node("accuracy_band")))
    assert needs_of(chain) == {"expert", "demonstrations"}
    assert verdict(chain, group(0, 0)) == Divert("sft", "failed_all")
    assert verdict(chain, group(1, 1)) == Drop("easy")
    with pytest.raises(UserError, match=r"gate\.gates"):
        Chain(gates=())
    with pytest.raises(UserError, match="accuracy_band"):
        Chain(gates=(_node("acuracy_band"),))


@pytest.mark.parametrize(
    "gate",
    [
        VoidTurns(), MaskTruncated(), StdEma(), Informative(), DifficultyWeight(choices=4),
        DivertFailed(), ComponentBand(low=0.0),
    ],
    ids=lambda gate: type(gate).__name__,
)  # fmt: skip
@pytest.mark.parametrize("rewards", [(), (1.0,), (0.0, 0.0), (1.0, 0.0, 0.5)])
def test_siblings_may_come_in_any_order(gate: GroupGate, rewards: tuple[float, ...]) -> None:
    of = failed(*rewards)
    turned = Group(TASK, of.trajectories[::-1])
    ctx = at(20, past_of(*[0.6] * 20))
    assert verdict(gate, of, ctx) == verdict(gate, turned, ctx)
