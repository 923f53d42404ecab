"""Finished, frozen records: a trajectory, its group, and their JSON-lines form.

A stored line carries `schema_version`; reading another version raises UserError with both numbers.
Token arrays are stored as plain lists, so that any tool can read a run folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agentrl.transcript import Float32Array, Transcript
from agentrl.types import Message, Task, ToolFault


class StopReason(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    """The environment ended it: an answer was given or the task was done."""
    ENV_TRUNCATED = "env_truncated"
    """The environment's own limit ended it."""
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    """The trajectory's budget of tokens, observations included, was used up."""
    TURN_TOKENS = "turn_tokens"
    """One generation hit its own limit without finishing its turn."""
    CONTEXT = "context"
    """The next request would not fit the engine's context."""
    MAX_CALLS = "max_calls"
    """The budget of tool calls was used up."""
    PARSE_ERRORS = "parse_errors"
    """Too many actions in a row could not be read."""
    DEADLINE = "deadline"
    """The episode's wall-clock deadline passed."""
    ABORTED = "aborted"
    """The engine or the run aborted it."""
    ERROR = "error"
    """The world failed; `Trajectory.error` says how. Out of every statistic."""


TRUNCATIONS = frozenset(
    {
        StopReason.ENV_TRUNCATED,
        StopReason.MAX_TURNS,
        StopReason.MAX_TOKENS,
        StopReason.TURN_TOKENS,
        StopReason.CONTEXT,
        StopReason.MAX_CALLS,
        StopReason.DEADLINE,
    }
)
"""Endings by a limit rather than by the task."""

ASIDE = frozenset({"vote_only", "leaks", "no_abstraction", "unsolved", "harmless"})
"""Reasons of exclusion that keep a member out of its group's statistics too: shapers see it, gates
and advantages do not."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One line of the tool-call ledger."""

    turn: int
    name: str
    arguments: str
    """The call as the model wrote it, JSON or raw text."""
    content: str
    """What the model read."""
    error: ToolFault | None
    truncated: bool
    wall_s: float
    queue_s: float

    @property
    def ran(self) -> bool:
        """The environment executed it; unknown names and bad arguments never get that far."""
        return self.error not in ("parse", "unknown_tool", "arguments")


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds one episode spent, by activity; they may overlap with those of its siblings."""

    generate_s: float = 0.0
    tool_s: float = 0.0
    queue_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One finished episode. Later stages return `replace`d copies."""

    uid: str
    """Unique in the run: `step/task/sibling[+repeat][/branch]`."""
    task: Task
    sibling: int
    """Index in its group."""
    rows: tuple[Transcript, ...]
    """One or more contexts the engine saw; all are trained."""
    messages: tuple[Message, ...]
    """The conversation as text, for people and text rewards; never re-encoded."""
    stop: StopReason
    rewards: Mapping[str, float] = field(default_factory=dict[str, float])
    """Named components; `env` is the environment's own."""
    reward: float | None = None
    """The shaped scalar; None until shaped, which is not 0.0."""
    calls: tuple[CallRecord, ...] = ()
    n_turns: int = 0
    answer: str | None = None
    """The final answer the environment read."""
    seed: int = 0
    error: str | None = None
    """What the world did to it; set iff `stop` is ERROR."""
    excluded: str | None = None
    """Named reason why no token of it is trained (void, overlong, unverified); None trains it."""
    weight: float = 1.0
    """Multiplies its advantages; set by gates."""
    parent: str | None = None
    """uid of the trajectory it was branched from."""
    fork_tokens: int | None = None
    """Tokens it shares with `parent`."""
    n_executed: int = 0
    """Calls that were run for it alone: not those of its parent, but any that were run again to
    bring a new environment to the branching point."""
    timings: Timings = Timings()

    def __post_init__(self) -> None:
        if not self.rows and self.stop is not StopReason.ERROR:
            raise ValueError(f"trajectory {self.uid} has no row")
        if (self.error is not None) != (self.stop is StopReason.ERROR):
            raise ValueError(f"trajectory {self.uid}: `error` belongs to stop=error")

    @property
    def n_tokens(self) -> int:
        """Tokens over all rows, prompts and observations included."""
        return sum(len(row) for row in self.rows)

    @property
    def n_sampled(self) -> int:
        """Tokens the policy wrote: the length every length-aware method reads."""
        return sum(row.n_sampled for row in self.rows)

    @property
    def n_calls(self) -> int:
        """Calls in its history that were executed (OTC's m), those before its branching included."""
        return sum(call.ran for call in self.calls)

    @property
    def correct(self) -> bool:
        """The environment's own reward reached 1, the full score."""
        return self.rewards.get("env", 0.0) >= 1.0

    @property
    def truncated(self) -> bool:
        """A limit, not the task, ended it."""
        return self.stop in TRUNCATIONS

    @property
    def trainable(self) -> bool:
        """It counts in its group's statistics and trains tokens."""
        return self.error is None and self.excluded is None and self.n_sampled > 0

    def scored(self, **components: float) -> Trajectory:
        """A copy with named reward components added. Raises ValueError on a name already there."""
        taken = sorted(set(components) & set(self.rewards))
        if taken:
            raise ValueError(f"reward component {taken[0]!r} of {self.uid} is already set")
        return replace(self, rewards={**self.rewards, **components})


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """All trajectories of one task in one step."""

    task: Task
    trajectories: tuple[Trajectory, ...]
    step: int = 0
    token_rewards: tuple[Float32Array, ...] | None = None
    """Per-token rewards [t] over the joined rows of each trajectory, or None."""

    def __post_init__(self) -> None:
        for trajectory in self.trajectories:
            if trajectory.task.id != self.task.id:
                raise ValueError(f"{trajectory.uid} is not of task {self.task.id}")

    @property
    def scored(self) -> tuple[Trajectory, ...]:
        """Members that count in statistics: those the world did not fail."""
        return tuple(t for t in self.trajectories if t.error is None)

    @property
    def counted(self) -> Group:
        """The group without members that stand aside (`ASIDE`): what gates and the batch read."""
        places = [i for i, t in enumerate(self.trajectories) if t.excluded not in ASIDE]
        if len(places) == len(self.trajectories):
            return self
        per_token = self.token_rewards
        return replace(
            self,
            trajectories=tuple(self.trajectories[i] for i in places),
            token_rewards=None if per_token is None else tuple(per_token[i] for i in places),
        )
