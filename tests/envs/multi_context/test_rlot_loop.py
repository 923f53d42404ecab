"""RLoT through the real loop: whose tokens are trained, and what each context has read.

In nano's format a message is three ids longer than its bytes (`<|user|>` `<|end|>` `<|assistant|>`),
and every turn here ends with `<|end|>`.
"""

from __future__ import annotations

from typing import Any

from agentrl.trajectory import StopReason
from agentrl.transcript import Origin
from agentrl.types import Task
from agentrl_envs.rlot import Rlot
from agentrl_envs.rlot.blocks import INSTRUCTIONS

TASK = Task("t", "2+3=?", "5", {"split": "train"})
ASKED = (
    "Score from 1 to 3, as seven numbers and nothing else: correctness of modelling; clarity for next "
    "steps; correctness of calculation; complexity of what is left; existence of alternatives; "
    "closeness to the solution; completeness of this step."
)


async def test_rows_masks_and_ids_of_a_partners_episode(stage: Any, named_row: Any) -> None:
    """
    ""        16 prompt "1 1 1 1 1 1 1", MODEL 7 "reason", 16 "2 2 2 2 2 2 3", MODEL 10 "terminate"
    solver    prompt, 5 "so 5", 3 + the instruction, 10 "\\boxed{5}": nothing trained
    scores 1  prompt, 14 "2 2 2 2 2 2 3": nothing trained
    """
    policy = stage.speaker("reason", "terminate")
    solver = stage.speaker("so 5", "2 2 2 2 2 2 3", "\\boxed{5}")
    env = lambda: Rlot(solver="partner", style="terse")  # noqa: E731
    played = await stage.play(env, TASK, policy, {"solver": solver})
    assert (played.stop, played.rewards, played.answer) == (
        StopReason.TERMINATED,
        {"env": 1.0},
        "5",
    )
    assert played.n_turns == 5
    assert {row.context for row in played.rows} == {"", "solver", "scores 1"}

    own = named_row(played, "")
    assert len(own) == 16 + 7 + 16 + 10
    assert own.mask.tolist() == [False] * 16 + [True] * 7 + [False] * 16 + [True] * 10
    lengths = [(int(s.origin), len(s.token_ids)) for s in own.segments if s.origin is Origin.MODEL]
    assert lengths == [(int(Origin.MODEL), 7), (int(Origin.MODEL), 10)]
    assert policy.heard == [
        "<|user|>1 1 1 1 1 1 1<|end|><|assistant|>",
        "<|user|>1 1 1 1 1 1 1<|end|><|assistant|>reason<|end|>"
        "<|user|>2 2 2 2 2 2 3<|end|><|assistant|>",
    ]

    first = f"2+3=?\n\n{INSTRUCTIONS['reason']}"
    work = named_row(played, "solver")
    assert len(work) == 3 + len(first) + 5 + 3 + len(INSTRUCTIONS["terminate"]) + 10
    assert not work.mask.any()
    assert [s.policy for s in work.segments if len(s.token_ids) in (5, 10)] == ["solver", "solver"]

    evaluated = named_row(played, "scores 1")
    assert len(evaluated) == 3 + len(f"2+3=?\n\nso 5\n\n{ASKED}") + 14
    assert not evaluated.mask.any()
    assert solver.heard[1] == f"<|user|>2+3=?\n\nso 5\n\n{ASKED}<|end|><|assistant|>"
    assert solver.heard[2].startswith(f"<|user|>{first}<|end|><|assistant|>so 5<|end|><|user|>Term")
    assert played.n_sampled == 17


async def test_process_scores_of_a_partner(stage: Any) -> None:
    """Three blocks scored .9, .4, and none that can be read; then a wrong answer: .9 + .4 + 0."""
    env = lambda: Rlot(solver="partner", reward="process", style="terse")  # noqa: E731
    policy = stage.speaker("decompose", "reason", "refine", "terminate")
    solver = stage.speaker("a", "x", "b", "1 1 1 1 1 1 2", "c", "3 3 3 3 3 3 3", "\\boxed{6}")
    prm = stage.speaker("0.9", "I say 0.4.", "good")
    played = await stage.play(env, TASK, policy, {"solver": solver, "prm": prm})
    assert played.rewards["env"] == 0.9 + 0.4
    assert played.excluded == "unscored"
    assert "? ? ? ? ? ? ?" in policy.heard[1]  # a self-evaluation that could not be read
    assert policy.heard[3].endswith("3 3 3 3 3 3 3<|end|><|assistant|>")
    assert prm.heard[1] == (
        "<|user|>2+3=?\n\na\n\nb\n\nHow likely does this lead to the right answer? Answer with a "
        "number from 0 to 1.<|end|><|assistant|>"
    )
    test_task = Task("t", "2+3=?", "5", {"split": "test"})
    again = await stage.play(
        env, test_task, stage.speaker("reason", "terminate"),
        {"solver": stage.speaker("a", "x", "\\boxed{5}"), "prm": prm},
    )  # fmt: skip
    assert (again.rewards, len(prm.heard)) == ({"env": 1.0}, 3)


async def test_a_partners_answer_leaves_only_terminate(stage: Any, named_row: Any) -> None:
    policy, solver = (
        stage.speaker("reason", "debate"),
        stage.speaker("\\boxed{5}", "1", "\\boxed{5}"),
    )
    env = lambda: Rlot(solver="partner", style="terse")  # noqa: E731
    played = await stage.play(env, TASK, policy, {"solver": solver})
    assert played.rewards == {"env": 1.0}
    assert solver.heard[2].endswith(f"{INSTRUCTIONS['terminate']}<|end|><|assistant|>")


async def test_the_scripted_solver_needs_one_row(stage: Any) -> None:
    """Prompt 16, then each choice with its end and, but for the last, a state of 16."""
    task = Task("t", "7*15=?", "105", {"expression": "7*15"})
    policy = stage.speaker("reason", "refine", "terminate")
    played = await stage.play(lambda: Rlot(style="terse"), task, policy)
    (row,) = played.rows
    assert played.rewards == {"env": 1.0}
    assert len(row) == 16 + 7 + 16 + 7 + 16 + 10
    assert int(row.mask.sum()) == 7 + 7 + 10
    assert policy.heard[1].endswith("<|user|>3 3 1 1 1 3 3<|end|><|assistant|>")


async def test_a_file_task_is_checked_as_maths(stage: Any) -> None:
    env = lambda: Rlot(solver="partner", style="terse")  # noqa: E731
    half = Task("t", "Half of one?", "\\frac{1}{2}")
    solver = stage.speaker("a", "x", "\\boxed{0.5}")
    played = await stage.play(env, half, stage.speaker("reason", "terminate"), {"solver": solver})
    assert (played.rewards, played.excluded) == ({"env": 1.0}, None)
