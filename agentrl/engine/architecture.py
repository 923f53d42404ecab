"""What the in-process engine must know of a model's config, and which models it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agentrl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("qwen2", "qwen3", "llama")
"""`model_type`s whose forward pass `engine.decoder` computes."""

ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary variants whose frequencies do not depend on the length of the row."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of one decoder-only transformer."""

    family: str
    n_layers: int
    hidden: int
    intermediate: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    """Added to the mean square in RMSNorm."""
    tied: bool
    """The output head is the embedding."""
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """RMSNorm over each head's query and key (Qwen3)."""
    max_positions: int


def read_architecture(config: Any, source: str) -> Architecture:  # transformers configs are untyped
    """Read a transformers config; raises UserError for what `engine.decoder` cannot compute."""
    family = str(config.model_type)
    if family not in FAMILIES:
        raise _unsupported(source, f"model_type {family!r}")
    if config.hidden_act != "silu":
        raise _unsupported(source, f"hidden_act {config.hidden_act!r}")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise _unsupported(source, f"layers of kind {sorted(kinds)}")
    rope = config.rope_parameters["rope_type"]
    if rope not in ROPES:
        raise _unsupported(source, f"rope_type {rope!r}")
    heads = int(config.num_attention_heads)
    attention_bias = bool(getattr(config, "attention_bias", False))
    return Architecture(
        family=family,
        n_layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        intermediate=int(config.intermediate_size),
        n_heads=heads,
        n_kv_heads=int(config.num_key_value_heads or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        vocab=int(config.vocab_size),
        eps=float(config.rms_norm_eps),
        tied=bool(config.tie_word_embeddings),
        qkv_bias=family == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        qk_norm=family == "qwen3",
        max_positions=int(config.max_position_embeddings),
    )


def _unsupported(source: str, what: str) -> UserError:
    return UserError(
        f"engine=transformers cannot run {source} ({what}); it knows {', '.join(FAMILIES)} with "
        "full attention: choose engine=vllm for this model"
    )


def rotations(config: Any, n_positions: int) -> Tensor:
    """Complex rotary factors e^{i p theta_j}, shape [n_positions, head_dim / 2], complex64.

    Built as RoFormer (arXiv:2104.09864) eq. 34, with the frequencies transformers derives from
    the config (YaRN's and Llama 3's scaling included).
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters
    if rope["rope_type"] == "default":
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, dim, 2, dtype=torch.float) / dim
        frequencies, scale = 1.0 / (rope["rope_theta"] ** exponents), 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
    angles = torch.arange(n_positions, dtype=torch.float)[:, None] * frequencies[None]
    return torch.complex(angles.cos() * scale, angles.sin() * scale)


def model_folder(model: str | Path) -> Path:
    """The folder holding a model's config and safetensors; a hub id is downloaded.

    Raises UserError when nothing of that name is there.
    """
    path = Path(model)
    if path.is_dir():
        return path
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        download = cast("Callable[..., str]", huggingface_hub.snapshot_download)
        folder = download(str(model), allow_patterns=["*.json", "*.safetensors", "*.txt"])
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {str(model)!r} is neither a folder here nor a hub id that can be downloaded "
            f"({type(error).__name__}): give the path of a folder with config.json"
        ) from error
    return Path(folder)
