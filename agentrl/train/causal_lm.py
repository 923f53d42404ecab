"""A Hugging Face causal LM that scores tokens: only the wanted ones reach the output layer."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# transformers and torch leave model attributes untyped; what leaves this file is typed.

from __future__ import annotations

import logging as log
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from agentrl.algo.head import head_scores
from agentrl.algo.loss import TokenScores, predictors, token_logprobs
from agentrl.algo.types import Batch, MicroBatch
from agentrl.errors import UserError
from agentrl.train.packing import (
    Tally,
    Wanted,
    forest_states,
    pack,
    shared_micro_batches,
    use_forest,
)

Precision = Literal["float32", "bfloat16"]
VALUE_HEAD = "value_head"
"""What the value head's parameters are named after."""

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.tiktoken",
)
"""Globs of what a folder's tokenizer consists of, copied byte for byte."""
_LOG = log.getLogger(__name__)


class CausalLM:
    """fp32 weights; with `bfloat16` the matrix products run in bf16 under autocast.

    Dropout is switched off, so that the same weights always give the same logprobs. What rows of a
    micro-batch begin with together is computed once, where the model can take it.
    Raises UserError when `path` holds no model.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        precision: Precision = "float32",
        device: str = "cpu",
        activation_checkpointing: bool = False,
        shared_prefixes: bool = True,
    ) -> None:
        self.path = str(path)
        self.device = torch.device(device)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.model: nn.Module = _loaded(self.path).to(self.device)
        self.model.eval()
        if activation_checkpointing:
            self.model.gradient_checkpointing_enable(  # pyright: ignore[reportCallIssue]
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            # Layers checkpoint only in training mode; with no dropout that changes nothing else.
            self.model.train()
        self._plain_head = self._head_is_plain()
        self.flat_because = self._why_flat(shared_prefixes)
        """Why shared prefixes are computed once per row; None where they are computed once."""
        self.tally = Tally()
        """Counts on until somebody puts a new one here."""
        self.value_head: nn.Linear | None = None
        """State -> value, for critics; not among `tensors`, which are the language model's."""

    @property
    def pad_id(self) -> int:
        """The model's padding id, or 0: nothing reads what it stands for."""
        found = getattr(self.model.config, "pad_token_id", None)
        return found if isinstance(found, int) and found >= 0 else 0

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table's vocabulary, as the configuration names it."""
        return int(self.model.config.get_text_config().vocab_size)  # pyright: ignore

    def add_value_head(self) -> nn.Linear:
        """A linear value of each state, zero at first: in fp32, trained with the model."""
        width = self.model.config.get_text_config().hidden_size  # pyright: ignore
        self.value_head = nn.Linear(width, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        return self.value_head

    def micro_batches(
        self, batch: Batch, max_tokens: int, tokens: Tensor | None = None
    ) -> list[MicroBatch]:
        """Cover the rows that hold `tokens` (bool [B, T], by default the mask).

        At most `max_tokens` are computed at once, one row aside: shared prefixes counted once where
        this model computes them once, padding included where it does not.
        """
        wanted = batch.mask if tokens is None else tokens
        if self.flat_because is not None:
            return batch.micro_batches(max_tokens, wanted)
        return shared_micro_batches(batch, max_tokens, wanted)

    def scores(self, batch: Batch, tokens: Tensor) -> TokenScores:
        """Logprobs and entropies [B, T] of `tokens` (bool [B, T], never index 0), on the device.

        With a value head also the values. Rows must not hold a wanted token behind padding. No
        attention mask is passed: padding is on the right, where a causal model cannot see it.
        """
        shape = batch.token_ids.shape
        if shape[1] < 2:
            zeros = torch.zeros(shape, device=self.device)
            return TokenScores(zeros, zeros.clone(), None if self.value_head is None else zeros)
        if not self._plain_head:
            return self._scores_from_logits(batch.to(self.device), tokens.to(self.device))
        wanted = self._wanted(batch, tokens)
        tokens = tokens.to(self.device)
        head = self._head()
        scored = head_scores(
            wanted.states,
            head.weight,
            head.bias,
            wanted.targets,
            wanted.temperatures,
            dtype=self._dtype,
        )
        return TokenScores(
            wanted.scattered(scored.logprobs, tokens),
            wanted.scattered(scored.entropies, tokens),
            None if self.value_head is None else self._scattered_values(wanted, tokens),
        )

    def values(self, batch: Batch, tokens: Tensor) -> Tensor:
        """f32 [B, T]: the value of the state before each of `tokens`; 0 elsewhere.

        Raises ValueError without a value head.
        """
        if batch.token_ids.shape[1] < 2:
            return torch.zeros(batch.token_ids.shape, device=self.device)
        return self._scattered_values(self._wanted(batch, tokens), tokens.to(self.device))

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters, each storage once, in the model's order; the value head's last."""
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        head = self.value_head
        return named + (
            [(f"{VALUE_HEAD}.{n}", p) for n, p in head.named_parameters()] if head else []
        )

    def tensors(self) -> dict[str, Tensor]:
        """Live views of the weights by Hugging Face name, tied ones under each of their names."""
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}

    def assign(self, tensors: dict[str, Tensor]) -> None:
        """Copy weights in. Raises UserError when names or shapes are of another model."""
        try:
            self.model.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                "the checkpoint's weights do not fit this model; resume with the model it was "
                f"started from ({str(error).splitlines()[-1].strip()})"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the model and its tokenizer in the Hugging Face layout (safetensors)."""
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self.model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
        source = Path(self.path)
        if not source.is_dir():
            AutoTokenizer.from_pretrained(self.path).save_pretrained(folder)
            return
        for pattern in TOKENIZER_FILES:
            for file in sorted(source.glob(pattern)):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)

    @contextmanager
    def _autocast(self) -> Generator[None]:
        enabled = self._dtype is torch.bfloat16
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            yield

    def _scores_from_logits(self, batch: Batch, tokens: Tensor) -> TokenScores:
        """`scores` of a model whose logits are not its output layer's alone."""
        with self._autocast():
            logits = self.model(input_ids=batch.token_ids, use_cache=False).logits
        full = token_logprobs(logits, batch.token_ids, batch.temperatures)
        values = None if self.value_head is None else self.values(batch, tokens)
        return TokenScores(full.logprobs * tokens, full.entropies * tokens, values)

    def _wanted(self, batch: Batch, tokens: Tensor) -> Wanted:
        """The states that predict `tokens`, shared prefixes computed once where that pays."""
        found = pack(batch, tokens) if self.flat_because is None else None
        if found is None:
            batch, tokens = batch.to(self.device), tokens.to(self.device)
            ids = batch.token_ids[:, :-1]
            self.tally.add(tokens, ids.numel())
            states = predictors(self._hidden(ids), tokens)
            return Wanted(states, batch.token_ids[tokens], batch.temperatures[tokens])
        self.tally.add(tokens, len(found.forest))
        with self._autocast():
            hidden = forest_states(self._body(), found.forest, self.device)
        return Wanted.of(hidden, found)

    def _scattered_values(self, wanted: Wanted, tokens: Tensor) -> Tensor:
        if self.value_head is None:
            raise ValueError("this model has no value head")
        return wanted.scattered(self.value_head(wanted.states.float())[:, 0], tokens)

    def _hidden(self, token_ids: Tensor) -> Tensor:
        with self._autocast():
            return self._body()(input_ids=token_ids, use_cache=False).last_hidden_state

    def _body(self) -> Any:
        return self.model.base_model

    def _head(self) -> nn.Linear:
        return self.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]

    def _why_flat(self, shared_prefixes: bool) -> str | None:
        if not shared_prefixes:
            return "learner.shared_prefixes is false"
        if self._plain_head:
            reason = use_forest(self.model, self._body(), self.device)
        else:
            reason = "its logits are not those of a plain output layer"
        if reason is not None:
            _tell(self.path, reason)
        return reason

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Whether logits are the output layer's alone: no soft cap, no scale behind it."""
        if self._body() is self.model or type(self._head()) is not nn.Linear:
            return False
        ids = torch.arange(4, device=self.device)[None]
        logits = self.model(input_ids=ids, use_cache=False).logits
        hidden = self._body()(input_ids=ids, use_cache=False).last_hidden_state
        return torch.allclose(self._head()(hidden), logits, rtol=1e-4, atol=1e-4)


@cache
def _tell(path: str, reason: str) -> None:
    """Once per process: a critic or a teacher may be the same model again."""
    _LOG.warning("%s computes shared prefixes row by row: %s", path, reason)


def _loaded(path: str) -> Any:
    local = Path(path).expanduser()
    if local.is_dir():
        path = str(local)
        if not (local / "config.json").is_file():
            raise UserError(f"{path} holds no config.json; point model at a Hugging Face folder")
    elif local.exists() or path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise UserError(f"there is no model folder at {path}; check the path given as model=")
    try:
        config = AutoConfig.from_pretrained(path)
        for key in vars(config):
            if key.endswith(("dropout", "pdrop", "dropout_prob")):
                setattr(config, key, 0.0)
        with _quiet():
            return AutoModelForCausalLM.from_pretrained(
                path, config=config, dtype=torch.float32, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        raise UserError(f"no causal language model could be loaded from {path}: {error}") from error


@contextmanager
def _quiet() -> Generator[None]:
    """transformers draws a progress bar per file, across the live table."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


__all__ = ["VALUE_HEAD", "CausalLM", "Precision"]
