"""Write verl_losses.json: what verl's core_algos makes of a few rows.

Run in an environment of its own that has verl: `python tests/algo/oracle/make_verl_losses.py`.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

SHAPE = (4, 7)
MODES = (
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
)
KINDS = ("k1", "k2", "k3", "k3+", "abs")


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def numbers(scale: float, shift: float = 0.0) -> torch.Tensor:
        drawn = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * scale + shift
        return (drawn * 1000).round() / 1000

    rows = {
        "old": numbers(0.3, -2.0),
        "ref": numbers(0.3, -2.0),
        "advantages": numbers(1.0),
        "old_values": numbers(0.5),
        "returns": numbers(0.5),
    }
    rows["logprobs"] = rows["old"] + numbers(0.4)
    rows["values"] = rows["old_values"] + numbers(0.4)
    mask = torch.rand(SHAPE, generator=generator) > 0.3
    mask[:, 0], mask[3] = False, False
    rows["advantages"] = rows["advantages"] * mask
    weights = mask.double()
    cases: list[dict[str, object]] = []

    def keep(name: str, leaf: torch.Tensor, loss: torch.Tensor, **options: object) -> None:
        (slopes,) = torch.autograd.grad(loss, leaf)
        cases.append(
            {"name": name, **options, "loss": loss.item(), "slopes": (slopes * weights).tolist()}
        )

    for name, low, high, dual in [
        ("vanilla", 0.2, 0.2, 3.0),
        ("vanilla", 0.2, 0.28, 10.0),
        ("vanilla", 0.1, 0.3, 1.4),
        ("gspo", 0.05, 0.1, 3.0),
        ("cispo", 0.2, 0.28, 3.0),
        ("cispo", 1.0, 4.0, 3.0),
    ]:
        config = ActorConfig(
            strategy="fsdp",
            rollout_n=1,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio_low=low,
            clip_ratio_high=high,
            clip_ratio_c=dual,
        )
        for mode in MODES:
            leaf = rows["logprobs"].clone().requires_grad_(True)
            function = core_algos.get_policy_loss_fn(name)
            loss, _ = function(
                old_log_prob=rows["old"],
                log_prob=leaf,
                advantages=rows["advantages"],
                response_mask=weights,
                loss_agg_mode=mode,
                config=config,
            )
            keep(name, leaf, loss, mode=mode, low=low, high=high, dual=dual)
    for clip in (0.1, 0.5):
        leaf = rows["values"].clone().requires_grad_(True)
        loss, _ = core_algos.compute_value_loss(
            leaf, rows["returns"], rows["old_values"], weights, clip
        )
        keep("value", leaf, loss, clip=clip)
    for kind in KINDS:
        leaf = rows["logprobs"].clone().requires_grad_(True)
        values = core_algos.kl_penalty(leaf, rows["ref"], kind)
        keep("kl", leaf, (values * weights).sum(), kind=kind)
    controller = core_algos.AdaptiveKLController(0.1, 0.05, 1000)
    steered: list[float] = []
    for kl in (0.2, 0.05, 0.04, 0.055):
        controller.update(kl, 64)
        steered.append(float(controller.value))
    made = {
        "verl": version("verl"),
        "rows": {name: values.tolist() for name, values in rows.items()} | {"mask": mask.tolist()},
        "cases": cases,
        "controller": steered,
    }
    Path(__file__).with_name("verl_losses.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
