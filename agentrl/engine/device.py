"""Where an in-process model computes."""

from __future__ import annotations

import torch

from agentrl.errors import UserError


def chosen_device(name: str) -> str:
    """`auto` is the GPU where there is one, else the CPU; anything else is taken as torch names it.

    Raises UserError for a device that torch does not know or that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is not known to torch; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} was asked for, but torch finds no GPU; use device=cpu")
    return name
