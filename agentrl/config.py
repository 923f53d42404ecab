"""The configuration tree: frozen pydantic models, unknown keys refused.

Every field's docstring is its help text. A node with a `name` chooses a plug-in; what it holds
beyond its own fields are that plug-in's options, checked and used by `agentrl.plugins`. How files and
the command line become this tree is `agentrl.compose`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from agentrl.errors import UserError
from agentrl.explained import explained


class Node(BaseModel):
    """A closed node."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Plugin(BaseModel):
    """A node that names a plug-in and carries its options."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: str
    """Registry name, `module:Attr` or `file.py:Attr`."""

    @property
    def given(self) -> Mapping[str, Any]:
        """Options beyond this node's own fields."""
        return self.model_extra or {}


class EnvConfig(Plugin):
    """The environment and the limits of one episode."""

    protocol: str | None = None
    """How tools are called in text; null takes what the environment was written for."""
    max_turns: int = Field(default=8, gt=0)
    """Generations per episode."""
    max_calls: int = Field(default=16, ge=0)
    """Tool calls per episode."""
    max_parse_errors: int = Field(default=2, ge=0)
    """Actions in a row that may be unreadable before the episode ends."""
    turn_tokens: int = Field(default=1024, gt=0)
    """Tokens of one generation."""
    max_tokens: int = Field(default=4096, gt=0)
    """Tokens of one row, prompt and observations included."""
    observation_tokens: int = Field(default=1024, gt=0)
    """Tokens of one observation; longer ones lose their middle."""
    episode_s: float | None = Field(default=600.0, gt=0)
    """Wall-clock deadline of an episode; null for none (deterministic runs)."""
    call_s: float = Field(default=30.0, gt=0)
    """Deadline of one tool call."""


class DataConfig(Node):
    """Where tasks come from; all null lets the environment generate them."""

    path: str | None = None
    """A jsonl or parquet file."""
    layout: str | None = None
    """How its rows are read (gsm8k, math, chat, ...); null detects it."""
    hf: str | None = None
    """A hub data set, `name`, `name:split` or `name:config:split`; needs the `data` extra."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first so many rows; without a file, so many generated tasks, epoch after epoch."""
    unanswered: Literal["refuse", "drop"] = "refuse"
    """What to do with a row that has no gold answer."""
    shuffle: bool = True
    """Visit the rows of a file in a seeded order."""
    source: Plugin = Plugin(name="uniform")
    """Which tasks a step draws: `uniform` or a curriculum."""


class ModelConfig(Node):
    """The policy's weights and chat format."""

    path: str = "nano"
    """`nano`, a hub id, a folder, or a run folder."""
    renderer: str | None = None
    """Template family; null detects it from the tokenizer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of engine and learner."""


class PartnerConfig(Plugin):
    """A model beside the policy that a plan lets write; `name` is its engine."""

    name: str = "transformers"
    """Its engine; `self` is the policy itself, at its present weights."""
    model: str | None = None
    """Its weights, kept as they are: `nano`, a hub id, a folder, or a run folder; null is
    `model.path`."""


class RolloutConfig(Node):
    """How a task becomes a group of trajectories."""

    plan: Plugin = Plugin(name="sample")
    group_size: int = Field(default=8, gt=0)
    """Trajectories per task."""
    temperature: float = Field(default=1.0, gt=0)
    """The learner scores under the same one."""
    in_flight: int = Field(default=128, gt=0)
    """Episodes that may run at once."""
    tool_slots: int = Field(default=16, gt=0)
    """Tool calls that may run at once."""
    retries: int = Field(default=2, ge=0)
    """Fresh attempts for a trajectory that the world failed."""
    partners: Mapping[str, PartnerConfig] = Field(default_factory=dict[str, PartnerConfig])
    """Role -> the model that plays it, for plans with several: `{short: {model: path}}`."""


RejectionRule = Literal[
    "token_k1",
    "token_k2",
    "token_k3",
    "sequence_sum_k1",
    "sequence_sum_k2",
    "sequence_sum_k3",
    "sequence_mean_k1",
    "sequence_mean_k2",
    "sequence_mean_k3",
    "sequence_max_k1",
    "sequence_max_k2",
    "sequence_max_k3",
]


class OffPolicyConfig(Node):
    """Correction of the engine/learner mismatch; detached, multiplies the clipped loss."""

    level: Literal["off", "token", "sequence"] = "off"
    low: float | None = Field(default=None, ge=0)
    """Null truncates at `high` (TIS); a bound drops what lies outside (IcePop)."""
    high: float = Field(default=2.0, gt=0)
    """Upper bound on the importance ratio."""
    normalize: bool = False
    """Divide by the batch's mean weight."""
    old: Literal["learner", "behaviour"] = "learner"
    """What the loss's ratio is taken against."""
    reject: Mapping[RejectionRule, tuple[float | None, float | None]] = Field(
        default_factory=dict[RejectionRule, tuple[float | None, float | None]]
    )
    """Rule -> [low, high]: what lies outside is not trained; k1 bounds the ratio itself, such as
    `{sequence_mean_k1: [0.99, 1.01], sequence_max_k1: [1.0e-4, null]}`."""

    @field_validator("level", mode="before")
    @classmethod
    def _bare_off(cls, value: object) -> object:
        """YAML reads a bare `off` as False."""
        return "off" if value is False else value


Aggregate = Literal[
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
]


class RewardKLConfig(Node):
    """A KL penalty inside the reward: R_t -= coef (log pi - log pi_ref), as PPO had it."""

    coef: float = Field(default=0.0, ge=0)
    target: float | None = Field(default=None, gt=0)
    """KL that the coefficient is steered to; null keeps it."""
    horizon: float = Field(default=10_000.0, gt=0)
    """Trajectories over which the steering acts."""


class DemoConfig(Node):
    """Supervised steps between updates, on demonstrations of the tasks a gate diverts to `sft`."""

    queue: int = Field(default=0, ge=0)
    """Diverted tasks that trigger a supervised step; 0 for none."""
    lr: float | None = Field(default=None, gt=0)
    """Its own rate; null takes the learner's."""


class ReplayConfig(Node):
    """Groups kept for later steps: what a gate diverts to `replay` fills up batches that lack groups."""

    capacity: int = Field(default=0, ge=0)
    """Groups kept, the least informative dropped first; 0 for none."""


class AlgoConfig(Node):
    """The method: extension points 3 to 9."""

    rewards: tuple[Plugin, ...] = ()
    """Reward functions; the environment's own reward `env` is always there."""
    shapers: tuple[Plugin, ...] = ()
    gate: Plugin | None = None
    advantage: Plugin = Plugin(name="outcome")
    loss: Plugin = Plugin(name="clip")
    aggregate: Aggregate = "token-mean"
    aggregate_length: int | None = Field(default=None, gt=0)
    """Constant divisor in tokens of `seq-mean-token-sum-norm` (Dr. GRPO)."""
    aux: tuple[Plugin, ...] = ()
    schedules: tuple[Plugin, ...] = ()
    offpolicy: OffPolicyConfig = OffPolicyConfig()
    reward_kl: RewardKLConfig = RewardKLConfig()
    demos: DemoConfig = DemoConfig()
    replay: ReplayConfig = ReplayConfig()
    judge: Plugin | None = None
    """The model that rewards may ask for a grade."""
    gate_rounds: int = Field(default=10, gt=0)
    """Rounds of rollouts a gate may ask for to fill one batch."""
    minibatches: int = Field(default=1, gt=0)
    """Optimiser steps per batch."""


class LearnerConfig(Plugin):
    """The optimiser's side."""

    lr: float = Field(default=1e-6, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    micro_tokens: int = Field(default=16_384, gt=0)
    """Tokens of one forward and backward pass, padding included, shared prefixes counted once."""


class TrainConfig(Node):
    """The loop."""

    steps: int = Field(default=200, gt=0)
    tasks_per_step: int = Field(default=16, gt=0)
    deterministic: bool | None = None
    """Rows do not depend on their neighbours, so that resume is exact; null where the engine can."""
    checkpoint_every: int = Field(default=20, gt=0)
    keep: int = Field(default=2, gt=0)
    """Checkpoints kept beside the best one."""
    stall_steps: int | None = Field(default=30, gt=0)
    """Steps in a row without any reward difference that end the run; null never ends it."""
    mode: Literal["sync", "one_step_off", "async"] = "sync"
    """`sync`: rollouts, then the update. `one_step_off`: the next step's rollouts during the update.
    `async`: rollouts without end, updated in flight. Only `sync` repeats itself exactly."""
    max_staleness: int | None = Field(default=None, ge=0)
    """`async`: versions that a trained token may be behind the learner; null takes 2."""
    stuck_s: float | None = Field(default=3600.0, gt=0)
    """Seconds without a finished group after which a learner that waits gives up; null never does.
    Not in `sync`, where only the deadlines of episodes count."""


class EvalConfig(Node):
    """Evaluation, during training and by `agentrl eval`."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations while training; 0 evaluates only when asked."""
    tasks: int = Field(default=512, gt=0)
    samples: int = Field(default=1, gt=0)
    """Trajectories per task."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Evaluation only: in training it would part the engine's logprobs from the learner's."""
    top_k: int = Field(default=0, ge=0)
    """0 keeps every token. Evaluation only."""
    split: str = "test"
    """Which of a generating environment's splits."""
    path: str | None = None
    """A file of tasks to evaluate on instead."""


class SftConfig(Node):
    """Supervised training on demonstrations."""

    steps: int = Field(default=2000, gt=0)
    batch: int = Field(default=64, gt=0)
    """Rows per optimiser step."""
    pool: int = Field(default=20_000, gt=0)
    """Demonstrations made before training starts."""
    lr: float = Field(default=1e-3, gt=0)
    path: str | None = None
    """A jsonl file of `messages`; null plays the environment's expert."""
    also: Mapping[str, Any] | None = None
    """Environment options of a second kind of demonstrations, such as `tools: none`."""
    also_share: float = Field(default=0.15, ge=0, le=1)
    """How much of the pool they make up."""
    architecture: Mapping[str, int | float | bool | str] | None = None
    """Shape of a fresh model; null starts from `model.path`."""


class RunConfig(Node):
    """Everything a run needs; written to its folder before the first step."""

    seed: int = 0
    env: EnvConfig
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    engine: Plugin = Plugin(name="transformers")
    learner: LearnerConfig = LearnerConfig(name="torch")
    sandbox: Plugin = Plugin(name="local")
    rollout: RolloutConfig = RolloutConfig()
    algo: AlgoConfig = AlgoConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    sft: SftConfig = SftConfig()
    dir: str | None = None
    """Run folder; null makes `runs/<env>--<model>--<time>`."""
    resume: str | None = None
    """Run folder to go on with."""

    @model_validator(mode="before")
    @classmethod
    def _corrected(cls, tree: object) -> object:
        """Overlapped modes train on tokens of older versions: corrected (TIS) unless told how."""
        if not isinstance(tree, Mapping):
            return tree
        given = cast("Mapping[str, Any]", tree)
        mode = _leaf(given, "train", "mode")
        told = {_leaf(given, "algo", "offpolicy", leaf) for leaf in ("level", "old")} - {None}
        if mode in (None, "sync") or told:
            return given
        algo = _node(given.get("algo"))
        offpolicy = {**_node(algo.get("offpolicy")), "level": "token"}
        return {**given, "algo": {**algo, "offpolicy": offpolicy}}


def _leaf(tree: Mapping[str, Any], *path: str) -> object:
    """The value at a path of a tree not yet validated; None where there is none."""
    found: Any = tree
    for name in path:
        found = _node(found).get(name)
    return found


def _node(value: object) -> Mapping[str, Any]:
    """A node as a mapping of what was given in it; empty for what is none."""
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in value.model_fields_set}
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def validated(tree: Mapping[str, Any]) -> RunConfig:
    """The typed tree. Raises UserError that names the key, what is wrong and the nearest match."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(explained(error, RunConfig)) from None
