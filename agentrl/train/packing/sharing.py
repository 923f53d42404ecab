"""Which models compute shared prefixes once, and how one is made to.

The attention is registered with transformers under a name of its own. It is handed the forest of each
forward as a keyword; without one it is transformers' SDPA attention. Whether a model passes that
keyword and its position ids on, and does nothing else across tokens, is tried once on a small forest.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# transformers leaves model attributes untyped; what leaves this file is typed.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agentrl.train.packing.attention import Levels, forest_attention
from agentrl.train.packing.forest import Forest, forest

ATTENTION = "agentrl_forest"
"""Name of the attention among transformers' own."""
CLOSE = 1e-4
"""Largest difference of a probe's hidden states, relative to the largest of them."""
_STEM, _TAIL = 12, 8


def forest_states(body: nn.Module, packed: Forest, device: torch.device) -> Tensor:
    """[N, H]: last hidden states of the packed tokens. Only for bodies that `use_forest` took."""
    found = body(
        input_ids=torch.from_numpy(packed.token_ids).to(device)[None],
        position_ids=torch.from_numpy(packed.positions).to(device)[None],
        use_cache=False,
        forest_levels=packed.levels,
    )
    return found.last_hidden_state[0]


def use_forest(model: Any, body: nn.Module, device: torch.device) -> str | None:
    """Switch a model's attention over; None, or why this model cannot take forests.

    A refused model is left as it was.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        return f"it has layers of {', '.join(sorted(layers - {'full_attention'}))}"
    before = config._attn_implementation
    if before != "sdpa":
        return f"its attention is {before}, not sdpa"
    ids, lengths = _probe_rows(int(config.vocab_size))
    with torch.no_grad():
        expected = _flat_states(body, ids, device)
        model.set_attn_implementation(ATTENTION)
        if config._attn_implementation != ATTENTION:
            return "its attention cannot be replaced"
        reason = _differs(body, ids, lengths, expected, device)
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    forest_levels: Levels | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention contract: queries [1, H, N, D], keys [1, K, N, D] -> [1, N, H, D]."""
    if forest_levels is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    extra = [name for name in _UNKNOWN if options.get(name) is not None]
    if attention_mask is not None or extra:
        raise ValueError(f"its attention has {', '.join(extra) or 'a mask of its own'}")
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = forest_attention(query[0], key[0], value[0], forest_levels, scale)
    return out.transpose(0, 1)[None], None


_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Options of transformers' attention that change its result and are not in this one."""

AttentionInterface.register(ATTENTION, _attention)  # pyright: ignore[reportArgumentType]


def _probe_rows(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Four rows: two stems, the first with a branch and a branch of that."""
    length = _STEM + 2 * _TAIL
    ids = (np.arange(4 * length, dtype=np.int64).reshape(4, length) * 7 + 3) % vocab_size
    ids[1, :_STEM] = ids[0, :_STEM]
    ids[2, : _STEM + _TAIL] = ids[1, : _STEM + _TAIL]
    return ids, np.array([length, length, length - 2, length - 5])


def _flat_states(body: nn.Module, ids: np.ndarray, device: torch.device) -> Tensor:
    found = body(input_ids=torch.from_numpy(ids).to(device), use_cache=False)
    return found.last_hidden_state


def _differs(
    body: nn.Module, ids: np.ndarray, lengths: np.ndarray, expected: Tensor, device: torch.device
) -> str | None:
    """Why the forest's states are not the expected [b, T, H]; None when they are."""
    packed = forest(ids, lengths, min_shared=1)
    try:
        states = forest_states(body, packed, device)
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0]
    states = states[torch.from_numpy(packed.places).to(device)]
    inside = torch.arange(ids.shape[1]) < torch.from_numpy(lengths)[:, None]
    gap = (states - expected)[inside.to(device)].abs().max() / expected.abs().max()
    return None if float(gap) <= CLOSE else f"its states differ by {float(gap):.1e} of the largest"


__all__ = ["ATTENTION", "CLOSE", "forest_states", "use_forest"]
