"""Cross-entropy terms: on expert text, on what succeeded, on what the environment answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.aux.means import share_of_mean
from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.points import Ctx
from agentrl.transcript import Origin


@dataclass(frozen=True, slots=True)
class Supervised:
    """coef * cross-entropy on the tokens of one origin, by default expert text.

    Interleaved SFT: demonstrations in the batch (ReLIFT's, SPC's) train beside the policy term.
    """

    coef: float | Ramp = 1.0
    origin: Origin = Origin.DEMO

    def __post_init__(self) -> None:
        check_coef("supervised.coef", self.coef)

    def tokens(self, batch: Batch) -> Tensor:
        """The origin's tokens that have a context."""
        return _of_origin(batch, self.origin)

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metric `sft_loss`, the mean over the origin's tokens; perplexity is its exp."""
        mean = share_of_mean(-output.logprobs, self.tokens(batch), output.n_tokens)
        return value_at(self.coef, ctx.step) * mean, {"sft_loss": mean.detach()}


@dataclass(frozen=True, slots=True)
class Echo:
    """coef * cross-entropy on OBSERVATION tokens: the policy also learns to foresee its tools.

    The only term that touches them; the policy term stays as it is. Rows that train no policy token
    (excluded trajectories) count: what the environment answered is as true there.
    """

    coef: float | Ramp

    def __post_init__(self) -> None:
        check_coef("echo.coef", self.coef)

    def tokens(self, batch: Batch) -> Tensor:
        """The observation tokens."""
        return _of_origin(batch, Origin.OBSERVATION)

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metric `echo_loss`, the mean over observation tokens."""
        mean = share_of_mean(-output.logprobs, self.tokens(batch), output.n_tokens)
        return value_at(self.coef, ctx.step) * mean, {"echo_loss": mean.detach()}


@dataclass(frozen=True, slots=True)
class SFTPositives:
    """coef * token-mean NLL of the policy's own correct rollouts (Klear-Reasoner, 2508.07629).

    The mean is over tokens of correct rows only, so the term does not fade where few are correct.
    Replayed successes are cloned by the same term.
    """

    coef: float | Ramp = 0.1
    """The paper's best of its sweep."""

    def __post_init__(self) -> None:
        check_coef("sft_positives.coef", self.coef)

    def tokens(self, batch: Batch) -> Tensor:
        """The policy's tokens in correct rows."""
        return batch.mask & batch.correct[:, None]

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metrics: `positives_loss`, that mean; `positives_share`, such tokens of all the policy's."""
        tokens = self.tokens(batch)
        mean = share_of_mean(-output.logprobs, tokens, output.n_tokens)
        metrics = {
            "positives_loss": mean.detach(),
            "positives_share": tokens.sum() / max(batch.n_tokens, 1),
        }
        return value_at(self.coef, ctx.step) * mean, metrics


def _of_origin(batch: Batch, origin: Origin) -> Tensor:
    tokens = (batch.origins == int(origin)) & batch.attention_mask
    tokens[:, 0] = False
    return tokens


__all__ = ["Echo", "SFTPositives", "Supervised"]
