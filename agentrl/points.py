"""The nine extension points, what they are handed, and the verdicts they return.

Every published method the project answers to is a small plug-in at one to three of these. Nothing
is mutated: each stage returns a value. Tensors appear only in annotations, so importing this module
loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from agentrl.episode import EpisodeRunner
from agentrl.history import HistoryStore, Write
from agentrl.sandbox import SandboxPool
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array
from agentrl.types import JsonValue, Task

if TYPE_CHECKING:
    from torch import Tensor

    from agentrl.algo.types import Batch, ForwardOutput
    from agentrl.engine.base import Engine


@dataclass(frozen=True, slots=True)
class Patch:
    """What schedules change from the next step on; None leaves a value as it is."""

    lr: float | None = None
    """The learner's base rate."""
    temperature: float | None = None
    """Of the rollouts; the learner scores under the same one."""
    max_tokens: int | None = None
    """Tokens of one row, at most the configured `env.max_tokens`."""
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    """Factor on a term of the loss: `policy`, or an auxiliary term's registry name."""
    anchor: float | None = None
    """Before the step the reference becomes (1 - anchor) policy + anchor reference."""
    reset_reference: bool = False
    """Before the step the reference becomes the policy."""
    reset_optimizer: bool = False
    """Before the step the optimiser forgets its moments."""


NO_PATCH = Patch()


@dataclass(frozen=True, slots=True)
class Ctx:
    """Where in the run a plug-in is called."""

    step: int
    total_steps: int
    seed: int
    """The run's seed; combine it with ids through `agentrl.seeds.derive`, never with a clock."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """Metrics of the previous step."""
    repeat: int = 0
    """How often this step has drawn the task before: one-shot sources and small files repeat it."""
    past: Sequence[Mapping[str, float]] = ()
    """Metrics of the last steps, oldest first, the previous step last; at most `PAST` of them."""
    patch: Patch = NO_PATCH
    """Everything schedules have changed so far, this step's patch included."""


PAST = 400
"""Steps whose metrics a run remembers."""

Need = Literal[
    "reference",
    "teacher",
    "critic",
    "scorer",
    "judge",
    "expert",
    "demonstrations",
    "replay",
    "sandbox",
]
"""What a plug-in may declare in a class attribute `needs: ClassVar[frozenset[Need]]`: a run whose
configuration does not provide it is refused before it starts."""


def needs_of(plugin: object) -> frozenset[Need]:
    """What the plug-in declares to need; nothing when it declares nothing."""
    return getattr(plugin, "needs", frozenset())


ScoredModel = Literal["policy", "ref", "teacher"]
"""A moving average of the policy is a `ref` that a schedule moves (`Patch.anchor`)."""


class Scorer(Protocol):
    """Teacher-forced logprobs of fixed rows under a named model."""

    async def logprobs(
        self, model: ScoredModel, rows: Sequence[Sequence[int]]
    ) -> list[Float32Array]:
        """Per row [t], aligned with its ids; entry 0 is 0.0."""
        ...


class Judge(Protocol):
    """A model that grades text."""

    async def grade(self, prompt: str) -> str:
        """Its answer. Raises WorldFault when it cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What plug-ins are handed; they never open a model themselves."""

    episodes: EpisodeRunner
    rewards: Sequence[RewardFn] = ()
    """The configured reward functions, for plans that must look early."""
    scorer: Scorer | None = None
    judge: Judge | None = None
    sandbox: SandboxPool | None = None
    """Where rewards run code: the run's own pool, open."""
    partners: Mapping[str, Engine] = field(default_factory=dict[str, "Engine"])
    """Models beside the policy that plans let write, by role; open. `self` is the policy."""


@runtime_checkable
class Adaptive(Protocol):
    """What learns from the steps: every task source, and plans that declare these methods."""

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Feedback for curricula: all scored groups of the step, gated-out ones included."""
        ...

    def state(self) -> Mapping[str, JsonValue]:
        """What `restore` needs to go on exactly."""
        ...

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`."""
        ...


@runtime_checkable
class TaskSource(Adaptive, Protocol):
    """Which tasks this step?"""

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """Exactly `n` tasks."""
        ...


@runtime_checkable
class RolloutPlan(Protocol):
    """How does one task become a group?

    A plan may be `Adaptive` as well, and declare `roles: ClassVar[frozenset[str]]`: the names under
    which it looks for partners. A partner that no role is for is refused.
    """

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """All siblings of one task."""
        ...


@runtime_checkable
class RewardFn(Protocol):
    """Named scores of one trajectory."""

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Components to add; names must be new. May raise WorldFault."""
        ...


class Shaped(NamedTuple):
    """A shaper's verdict on a group of G trajectories."""

    rewards_G: Float32Array
    """Shape [G]."""
    token_rewards_GT: tuple[Float32Array, ...] | None = None
    """Per trajectory [t] over its joined rows, or None."""
    writes: tuple[Write, ...] = ()
    """Offered to the HistoryStore, committed at the step boundary."""


@runtime_checkable
class RewardShaper(Protocol):
    """A group's components, history and step -> scalars. Shapers are chained in list order."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """The next `Shaped`; `shaped` is the previous shaper's, at first the summed components."""
        ...


@dataclass(frozen=True, slots=True)
class Keep:
    """Train on the group."""

    weight: float = 1.0
    remember: bool = False
    """Store it in the queue `replay` as well, for later batches that lack groups."""
    excluded: Mapping[str, str] = field(default_factory=dict[str, str])
    """uid -> named reason: trajectories that train no token and stay in the group's statistics."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Leave the group out; `reason` is counted and shown."""

    reason: str


@dataclass(frozen=True, slots=True)
class Divert:
    """Send the group to a named queue instead (`sft`, `replay`, `hard`)."""

    queue: str
    reason: str


Verdict: TypeAlias = Keep | Drop | Divert


@runtime_checkable
class GroupGate(Protocol):
    """Keep, drop or divert a shaped group?"""

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict: ...


class Estimate(NamedTuple):
    """What an advantage estimator makes of a batch."""

    advantages: Tensor
    """f32 [B, T]; zero wherever the batch's mask is False."""
    returns: Tensor | None = None
    """f32 [B, T]: the critic's targets at masked tokens; None without a critic."""


@runtime_checkable
class Advantage(Protocol):
    """Rewards -> per-token advantages, over the whole step's batch."""

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor | Estimate:
        """Advantages f32 [B, T], zero wherever the batch's mask is False; an `Estimate` when there
        is a critic to be taught as well."""
        ...


@runtime_checkable
class PolicyLoss(Protocol):
    """The surrogate, per token, before aggregation."""

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T] to minimise, and metrics as sums over masked tokens."""
        ...


@runtime_checkable
class AuxTerm(Protocol):
    """Another differentiable term with a mask of its own."""

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A scalar already divided by its own global count, and metrics."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """What changes over steps? A pure function of the step and the metrics so far.

    Values hold until changed again; `anchor` and the resets act at their step only.
    """

    def at(self, ctx: Ctx) -> Patch:
        """The changes at step `ctx.step`; an empty `Patch` for none."""
        ...


def combined(patches: Iterable[Patch]) -> Patch:
    """Later patches win value by value, scales name by name; resets add up."""
    result = NO_PATCH
    for patch in patches:
        result = Patch(
            lr=result.lr if patch.lr is None else patch.lr,
            temperature=result.temperature if patch.temperature is None else patch.temperature,
            max_tokens=result.max_tokens if patch.max_tokens is None else patch.max_tokens,
            scales={**result.scales, **patch.scales},
            anchor=result.anchor if patch.anchor is None else patch.anchor,
            reset_reference=result.reset_reference or patch.reset_reference,
            reset_optimizer=result.reset_optimizer or patch.reset_optimizer,
        )
    return result
