"""Differentiable terms beside the policy loss, each with its own tokens and its own global count.

A term returns its own aggregated, weighted scalar. Its metrics are already divided by its global
count, so that a learner adds them over micro-batches. Coefficients are numbers or `Ramp`s.

| name | what it minimises | over |
|---|---|---|
| kl | coef KL(policy, reference) | policy tokens |
| entropy, adaptive_entropy | -coef H | policy tokens |
| tea | -coef sum of softmax(cov) H | policy tokens, weighed over the batch |
| sft_positives | coef NLL | policy tokens of correct rows |
| supervised, echo | coef NLL | DEMO, OBSERVATION tokens |
| distill | coef KL(policy, teacher) | policy tokens |
| redi, dpo | a pair's preference loss | pairs within groups |
"""

from __future__ import annotations

from agentrl.algo.aux.distill import Distill, DistillUnsolved, distill
from agentrl.algo.aux.entropy import AdaptiveEntropy, Entropy
from agentrl.algo.aux.kl import KL, KLEstimator, adapted, kl_estimate
from agentrl.algo.aux.preference import DPO, REDI
from agentrl.algo.aux.supervised import Echo, SFTPositives, Supervised
from agentrl.algo.aux.tea import TEA

__all__ = [
    "DPO",
    "KL",
    "REDI",
    "TEA",
    "AdaptiveEntropy",
    "Distill",
    "DistillUnsolved",
    "Echo",
    "Entropy",
    "KLEstimator",
    "SFTPositives",
    "Supervised",
    "adapted",
    "distill",
    "kl_estimate",
]
