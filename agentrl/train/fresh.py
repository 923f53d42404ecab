"""A model from nothing: a shape, a seed and the nano tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from agentrl.chat.nano import VOCAB_SIZE, build_nano_tokenizer
from agentrl.errors import UserError


def fresh_model(shape: Mapping[str, int | float | bool | str], folder: Path, seed: int) -> None:
    """Write a randomly initialised causal LM of `shape` with the nano tokenizer into `folder`.

    `shape` holds `model_type` and fields of its transformers config. Raises UserError on a shape
    that transformers refuses.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

    fields: dict[str, Any] = dict(shape)
    model_type = fields.pop("model_type", "qwen2")
    folder.mkdir(parents=True, exist_ok=True)
    build_nano_tokenizer(folder)
    ids = {"bos_token_id": None, "eos_token_id": 260, "pad_token_id": 256}
    try:
        config = AutoConfig.for_model(model_type, vocab_size=VOCAB_SIZE, **ids, **fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"sft.architecture: {' '.join(str(error).split())}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    model.save_pretrained(folder)
